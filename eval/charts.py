"""Charts of the report, as SVG that takes its text colour and font from the page."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from facegm.eval.metrics import Roc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME, DIFFERENT = "#2f8fd0", "#e0803a"  # readable on a light and on a dark page, and by the colour-blind
_INK = "#010203"  # drawn by no one else: becomes the page's own text colour
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "facegm",  # the same chart gives the same bytes
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def roc_chart(curve: Roc, different: int) -> str:
    """Draw the ROC twice: all of it, and on a logarithmic axis the strict end, down to one false accept.

    Args:
        curve: rates, 0 to 1.
        different: number of pairs of different people; their reciprocal is the lowest false accept rate there is.

    Returns:
        An `<svg>` element.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        whole, strict = figure.subplots(1, 2)
        for axes in (whole, strict):
            axes.step(curve.false_accept_rate, curve.true_accept_rate, where="post", color=SAME)
            axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
            axes.grid(color=_INK, alpha=0.12)
        whole.plot([0, 1], [1, 0], color=_INK, alpha=0.4, linewidth=0.8, linestyle="--")
        whole.annotate("equal error", (0.5, 0.5), xytext=(4, 4), textcoords="offset points", alpha=0.7)
        whole.set(xlim=(-0.02, 1))
        strict.set(xscale="log", xlim=(min(1 / different, 0.1), 1))
        return _svg(figure, "ROC curve, on a linear and on a logarithmic axis")


def distance_chart(
    distances: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    fold_threshold: Float[np.ndarray, " folds"],
) -> str:
    """Draw the histograms of the distances of same and of different pairs, with the folds' thresholds.

    Args:
        distances: out-of-fold L2 distances.
        same: True where a pair shows one person.
        fold_threshold: threshold of each fold; drawn as a band with their mean as a line.

    Returns:
        An `<svg>` element.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        bins = np.histogram_bin_edges(distances, bins=60).tolist()
        for chosen, color, label in ((same, SAME, "same person"), (~same, DIFFERENT, "different people")):
            axes.hist(distances[chosen], bins=bins, color=color, alpha=0.6, label=label)
        axes.axvspan(float(fold_threshold.min()), float(fold_threshold.max()), color=_INK, alpha=0.15, linewidth=0)
        axes.axvline(float(fold_threshold.mean()), color=_INK, linewidth=1.2, linestyle="--", label="threshold")
        axes.set(xlabel="L2 distance", ylabel="pairs")
        axes.legend()
        return _svg(figure, "Histogram of the distances of same and different pairs")


def _svg(figure: "Figure", description: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
