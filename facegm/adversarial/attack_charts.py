"""Charts of detectors: what they tell apart at which price, and how their scores are distributed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from sklearn.metrics import roc_curve

from facegm.classification.evaluation import histograms
from facegm.data.charts import COLORS, INK, drawn, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = Float[np.ndarray, " images"]


def detector_chart(detector: str, clean: Scores, attacked: Mapping[str, Scores]) -> str:
    """Draw the ROC curve of a detector for each attack, and the histograms of its scores.

    Args:
        detector: its name.
        clean: scores of clean images; higher for normal ones.
        attacked: scores of attacked images, by the attack's name.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.8) as figure:
        curves, scores = figure.subplots(1, 2)
        for number, (name, found) in enumerate(attacked.items()):
            is_attacked = np.repeat([False, True], [len(clean), len(found)])
            false_alarms, detected, _ = roc_curve(is_attacked, -np.concatenate([clean, found]))
            curves.plot(false_alarms, detected, color=_color(number), label=name)
        curves.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle="--")
        curves.set(xlabel="clean images with a false alarm", ylabel="attacked images detected", ylim=(0, 1.02))
        curves.grid(color=INK, alpha=0.12)
        curves.legend(loc="lower right")
        draw_histograms(scores, clean, attacked)
        scores.set(xlabel=f"score of {detector}", ylabel="share of the images")
        return svg(figure, f"ROC curves of {detector} and histograms of its scores, for {', '.join(attacked)}")


def draw_histograms(axes: "Axes", clean: Scores, others: Mapping[str, Scores]) -> None:
    """Draw scores of clean images, filled, and of others; what lies beyond the bins is counted in the outermost."""
    edges, counts = histograms(clean, list(others.values()))
    for number, (name, count) in enumerate(zip(["clean", *others], counts, strict=True)):
        is_clean = number == 0
        axes.stairs(
            count / count.sum(),
            edges,
            fill=is_clean,
            color=INK if is_clean else _color(number - 1),
            alpha=0.25 if is_clean else 1.0,
            linewidth=1.4,
            label=name,
        )


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
