"""Charts of the verification report."""

import numpy as np
from jaxtyping import Bool, Float

from facegm.data.charts import COLORS, INK, drawn, svg
from facegm.eval.metrics import Roc

SAME, DIFFERENT = COLORS[:2]


def roc_chart(curve: Roc, different: int) -> str:
    """Draw the ROC twice: all of it, and on a logarithmic axis the strict end, down to one false accept.

    Args:
        curve: rates, 0 to 1.
        different: number of pairs of different people; their reciprocal is the lowest false accept rate there is.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.6) as figure:
        whole, strict = figure.subplots(1, 2)
        for axes in (whole, strict):
            axes.step(curve.false_accept_rate, curve.true_accept_rate, where="post", color=SAME)
            axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
            axes.grid(color=INK, alpha=0.12)
        whole.plot([0, 1], [1, 0], color=INK, alpha=0.4, linewidth=0.8, linestyle="--")
        whole.annotate("equal error", (0.5, 0.5), xytext=(4, 4), textcoords="offset points", alpha=0.7)
        whole.set(xlim=(-0.02, 1))
        strict.set(xscale="log", xlim=(min(1 / different, 0.1), 1))
        return svg(figure, "ROC curve, on a linear and on a logarithmic axis")


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
    with drawn(9, 3.2) as figure:
        axes = figure.subplots()
        bins = np.histogram_bin_edges(distances, bins=60).tolist()
        for chosen, color, label in ((same, SAME, "same person"), (~same, DIFFERENT, "different people")):
            axes.hist(distances[chosen], bins=bins, color=color, alpha=0.6, label=label)
        axes.axvspan(float(fold_threshold.min()), float(fold_threshold.max()), color=INK, alpha=0.15, linewidth=0)
        axes.axvline(float(fold_threshold.mean()), color=INK, linewidth=1.2, linestyle="--", label="threshold")
        axes.set(xlabel="L2 distance", ylabel="pairs")
        axes.legend()
        return svg(figure, "Histogram of the distances of same and different pairs")
