"""Verification metrics of the resamples of a bootstrap, from one sort of the distances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from facegm.eval.bootstrap import Bootstrap
from facegm.eval.rates import CONFIDENCE


@dataclass(frozen=True, eq=False, kw_only=True)
class ResampledRates:
    """What `facegm.eval.metrics` gives for each resample."""

    accuracy: Float64[np.ndarray, " resamples"]
    """At thresholds that stay as they are; of pairs of both kinds in the parts that they have in all pairs."""
    area: Float64[np.ndarray, " resamples"]
    """Under the ROC curve."""
    equal_error_rate: Float64[np.ndarray, " resamples"]
    true_accept_rate: Float64[np.ndarray, "resamples bounds"]
    """At each bound on the false accept rate, with each resample's own threshold."""


def resampled_rates(
    bootstrap: Bootstrap,
    distances: Float[np.ndarray, " pairs"],
    thresholds: float | Float[np.ndarray, " pairs"],
    false_accept_bounds: Sequence[float] = (),
) -> ResampledRates:
    """Compute the metrics of all resamples, without a loop over pairs.

    Args:
        bootstrap: of the pairs.
        distances: of every pair.
        thresholds: for the accuracy, one for all pairs, or each pair's own, such as its fold's. They are held fixed: on
            a resample of all folds, pairs would have copies of themselves choose their threshold.
        false_accept_bounds: 0 to 1; many of them give a band about the ROC curve.
    """
    order = np.argsort(distances, kind="stable")
    value, same, is_accepted = distances[order], bootstrap.same[order], (distances < thresholds)[order]
    ends = np.flatnonzero(np.append(value[1:] > value[:-1], True))  # equal distances are accepted together
    part, damping = np.mean(same), bootstrap.damping(distances)
    all_accepted, all_false = _curve(~same[None], ends), _share(~same[None], is_accepted)
    blocks = []
    for drawn in bootstrap.weights():
        matched, different = np.where(same, drawn[:, order], 0), np.where(same, 0, drawn[:, order])
        true_accept = _curve(matched, ends)
        false_accept = all_accepted + damping * (_curve(different, ends) - all_accepted)
        false = all_false + damping * (_share(different, is_accepted) - all_false)
        block = ResampledRates(
            accuracy=part * _share(matched, is_accepted) + (1 - part) * (1 - false),
            area=np.trapezoid(true_accept, false_accept, axis=1),
            equal_error_rate=_equal_error_rate(true_accept, false_accept),
            true_accept_rate=_at_bounds(true_accept, false_accept, false_accept_bounds),
        )
        blocks.append(block)
    return ResampledRates(
        accuracy=np.concatenate([block.accuracy for block in blocks]),
        area=np.concatenate([block.area for block in blocks]),
        equal_error_rate=np.concatenate([block.equal_error_rate for block in blocks]),
        true_accept_rate=np.concatenate([block.true_accept_rate for block in blocks]),
    )


def percentile_interval(values: Float64[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The interval that holds the middle 95 % of a metric's resampled values.

    Where a metric is at its end, such as an accuracy of 1, so are all resamples, and the interval says nothing: there
    the exact one of `facegm.eval.rates.Rate` does, as if pairs were independent.
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _curve(weights: np.ndarray, ends: Int64[np.ndarray, " splits"]) -> Float64[np.ndarray, "block points"]:
    """Accepted share of the weight at each split of the sorted distances, none at first."""
    accepted = np.cumsum(weights, axis=1)[:, ends]
    return np.pad(accepted / accepted[:, -1:], ((0, 0), (1, 0)))


def _share(weights: np.ndarray, is_accepted: np.ndarray) -> Float64[np.ndarray, " block"]:
    return np.asarray(weights[:, is_accepted].sum(axis=1) / weights.sum(axis=1))


def _equal_error_rate(
    true_accept: Float64[np.ndarray, "block points"], false_accept: Float64[np.ndarray, "block points"]
) -> Float64[np.ndarray, " block"]:
    """Where the straight line between the points on both sides of equal errors meets them."""
    excess = false_accept + true_accept - 1  # ascending from -1 to 1
    row, above = np.arange(len(excess)), np.count_nonzero(excess < 0, axis=1)
    low, high = excess[row, above - 1], excess[row, above]
    start, end = false_accept[row, above - 1], false_accept[row, above]
    return np.asarray(start - (end - start) * low / (high - low))


def _at_bounds(
    true_accept: Float64[np.ndarray, "block points"],
    false_accept: Float64[np.ndarray, "block points"],
    bounds: Sequence[float],
) -> Float64[np.ndarray, "block bounds"]:
    """True accept rate of the last point that keeps to each bound."""
    allowed = np.array(bounds) + 1e-12  # for what rounding adds to a rate
    points = [np.searchsorted(rates, allowed, side="right") - 1 for rates in false_accept]
    return np.take_along_axis(true_accept, np.array(points), axis=1)
