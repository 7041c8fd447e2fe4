"""Charts of the verification report: error rates, and the distances that they come from."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from scipy.stats import norm

from facegm.data.charts import COLORS, INK, drawn, svg
from facegm.eval.calibration import ReliabilityBin
from facegm.eval.error_rates import Det
from facegm.eval.intervals import Band
from facegm.eval.metrics import Roc
from facegm.eval.reports.embedding_map import EmbeddingMap

SAME, DIFFERENT = COLORS[:2]
_DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)
_MARKERS = ("o", "^", "s")


def roc_chart(curve: Roc, band: Band, different: int) -> str:
    """Draw the ROC twice: all of it, and on a logarithmic axis the strict end, down to one false accept.

    Args:
        curve: rates, 0 to 1.
        band: the interval of the true accept rate by false accept rate.
        different: number of pairs of different people; their reciprocal is the lowest false accept rate there is.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.6) as figure:
        whole, strict = figure.subplots(1, 2)
        for axes in (whole, strict):
            axes.fill_between(
                band.false_accept_rate, band.low, band.high, step="post", color=SAME, alpha=0.25, linewidth=0
            )
            axes.step(curve.false_accept_rate, curve.true_accept_rate, where="post", color=SAME)
            axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
            axes.grid(color=INK, alpha=0.12)
        whole.plot([0, 1], [1, 0], color=INK, alpha=0.4, linewidth=0.8, linestyle="--")
        whole.annotate("equal error", (0.5, 0.5), xytext=(4, 4), textcoords="offset points", alpha=0.7)
        whole.set(xlim=(-0.02, 1))
        strict.set(xscale="log", xlim=(min(1 / different, 0.1), 1))
        return svg(figure, "ROC curve with its band, on a linear and on a logarithmic axis")


def det_chart(curve: Det, band: Band) -> str:
    """Draw the DET curve on axes of normal deviates, where Gaussian scores give a straight line.

    Args:
        curve: both error rates.
        band: the interval of the true accept rate, 1 - FNMR, by FMR.

    Returns:
        An `<svg>` element.
    """
    thin = curve.thinned()
    rates = np.concatenate([thin.false_match_rate, thin.false_non_match_rate, [0.1, 0.5]])
    lowest, highest = max(float(rates.min()), 1e-4) / 1.5, min(float(rates.max()), 0.9)
    inside = (band.false_accept_rate > lowest) & (band.false_accept_rate < 1)
    with drawn(5.2, 4.6) as figure:
        axes = figure.subplots()
        axes.fill_between(
            norm.ppf(band.false_accept_rate[inside]),
            norm.ppf(np.clip(1 - band.high[inside], lowest, 1 - 1e-6)),
            norm.ppf(np.clip(1 - band.low[inside], lowest, 1 - 1e-6)),
            color=SAME,
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(norm.ppf(thin.false_match_rate), norm.ppf(thin.false_non_match_rate), color=SAME)
        axes.plot(*[norm.ppf([lowest, highest])] * 2, color=INK, alpha=0.4, linewidth=0.8, linestyle="--")
        _deviate_axes(axes, lowest, highest)
        axes.set(xlabel="false match rate (FMR)", ylabel="false non-match rate (FNMR)", aspect="equal")
        return svg(figure, "DET curve with its band, on axes of normal deviates")


def _deviate_axes(axes: Axes, lowest: float, highest: float) -> None:
    ticks = [rate for rate in _DET_TICKS if lowest <= rate <= highest]
    labels = [f"{100 * rate:g} %" for rate in ticks]
    places, ends = norm.ppf(ticks), norm.ppf([lowest, highest])
    axes.set(xticks=places, yticks=places, xticklabels=labels, yticklabels=labels, xlim=ends, ylim=ends)
    axes.grid(color=INK, alpha=0.12)


def distance_chart(
    distances: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    fold_threshold: Float[np.ndarray, " folds"],
) -> str:
    """Draw the histograms of the distances of same and of different pairs, with the folds' thresholds.

    Args:
        distances: out-of-fold distances.
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
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return svg(figure, "Histogram of the distances of same and different pairs")


def reliability_chart(bins: Sequence[ReliabilityBin]) -> str:
    """Draw how often pairs show one person by their probability, with exact intervals.

    Returns:
        An `<svg>` element.
    """
    points = [
        (one.probability, one.same, *one.interval)
        for one in bins
        if one.probability is not None and one.same is not None and one.interval is not None
    ]
    probability, same, low, high = np.array(points).T
    with drawn(5.2, 4.2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle="--", label="calibrated")
        axes.vlines(probability, low, high, color=SAME, alpha=0.5)
        axes.plot(probability, same, "o", color=SAME, markersize=4, label="mean of a bin, 95 % interval")
        axes.set(xlabel="probability of one person", ylabel="share that shows one person", xlim=(-0.02, 1.02))
        axes.set(ylim=(-0.02, 1.02))
        axes.grid(color=INK, alpha=0.12)
        axes.legend(loc="upper left")
        return svg(figure, "Share of pairs that show one person by their probability, with intervals")


def map_chart(shown: EmbeddingMap) -> str:
    """Draw where the images of some people lie.

    Returns:
        An `<svg>` element.
    """
    people = list(dict.fromkeys(shown.people))
    with drawn(9, 4.6) as figure:
        axes = figure.subplots()
        for number, person in enumerate(people):
            points = shown.points[[one == person for one in shown.people]]
            marker = _MARKERS[number // len(COLORS) % len(_MARKERS)]
            axes.plot(*points.T, marker, color=COLORS[number % len(COLORS)], markersize=5, alpha=0.85, label=person)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside right center", fontsize=8)
        return svg(figure, "Map of the embeddings of some people, a point an image")
