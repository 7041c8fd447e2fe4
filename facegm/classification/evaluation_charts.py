"""Charts of a classifier's evaluation."""

from collections.abc import Sequence

import numpy as np

from facegm.classification.evaluation import Bin, Histograms
from facegm.data.charts import COLORS, INK, drawn, svg


def reliability_chart(bins: Sequence[Bin]) -> str:
    """Draw the accuracy of the images of each bin of posteriors beside what it should be, and how many there are.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.4) as figure:
        accuracy, images = figure.subplots(1, 2)
        width = bins[0].up_to - bins[0].above
        for axes, heights in ((accuracy, [b.accuracy or 0.0 for b in bins]), (images, [b.images for b in bins])):
            axes.bar(
                [b.above for b in bins], heights, width, align="edge", color=COLORS[0], edgecolor=INK, linewidth=0.4
            )
            axes.set(xlabel="largest posterior", xlim=(0, 1))
        filled = [b for b in bins if b.images]
        points = [b.posterior or 0.0 for b in filled], [b.accuracy or 0.0 for b in filled]
        accuracy.plot(*points, "o", color=COLORS[1], markersize=4, label="mean of a bin")
        accuracy.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle="--", label="calibrated")
        accuracy.set(ylabel="accuracy", ylim=(0, 1.02))
        accuracy.legend(loc="upper left")
        images.set(ylabel="images", yscale="symlog")
        return svg(figure, "Accuracy by the largest posterior, and how many images have it")


def score_chart(score: str, names: Sequence[str], histograms: Histograms) -> str:
    """Draw how a score is distributed over images of the classes and over other sets.

    Args:
        score: its name.
        names: of the sets, that of the images of the classes first.
        histograms: their counts.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.4) as figure:
        axes = figure.subplots()
        for number, (name, counts) in enumerate(zip(names, histograms.counts, strict=True)):
            color = COLORS[number % len(COLORS)]
            is_first = number == 0
            axes.stairs(
                np.asarray(counts) / counts.sum(),
                histograms.edges,
                fill=is_first,
                color=color,
                alpha=0.5 if is_first else 1.0,
                linewidth=1.4,
                linestyle="-" if number <= len(COLORS) else "--",
                label=name,
            )
        axes.set(xlabel=score, ylabel="share of the images")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
        return svg(figure, f"Histogram of the {score} of images of the classes and of others")
