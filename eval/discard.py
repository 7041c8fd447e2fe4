"""Error versus discard: how the errors of a verification fall while the pairs of lowest quality are discarded.

The error-versus-discard characteristic (EDC) of ISO/IEC 29794-1 and of Grother and Tabassi 2007, of pairs of one
person: the share of them that is rejected (false non-match rate, FNMR) against the share of them that is discarded. The
threshold stays what it was before anything was discarded: one that is chosen anew from the pairs that are left, as some
scripts do, answers another question. Pairs of equal quality leave together, for nothing says which of them first, so
the curve has points only where a group ends, and between them it stays where it was (Schlett et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

LIMITS = (0.2, 0.3)
"""Shares up to which the area under the curve is taken: who discards more has no system left."""


@dataclass(frozen=True, eq=False)
class DiscardCurve:
    """A step function, which keeps each value until the next point."""

    discarded: Float64[np.ndarray, " points"]
    """Share of the pairs that is gone, ascending from 0 and below 1."""
    false_non_match_rate: Float64[np.ndarray, " points"]
    """Of the pairs that are left."""

    def at(self, share: Float[np.ndarray, " shares"]) -> Float64[np.ndarray, " shares"]:
        """The rate where no more than so many pairs may be discarded."""
        return self.false_non_match_rate[np.searchsorted(self.discarded, share + 1e-12, side="right") - 1]

    def area(self, limit: float) -> float:
        """Partial area under the curve (pAUC) over the limit: the mean rate from no discard to so large a share."""
        return float(_areas(self.discarded[None], self.false_non_match_rate[None], limit)[0])


def pair_quality(
    quality: Float[np.ndarray, " images"], row_a: Int[np.ndarray, " pairs"], row_b: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Quality of each pair: that of the worse of its two images, by their rows."""
    return np.asarray(np.minimum(quality[row_a], quality[row_b]))


def discard_curve(quality: Float[np.ndarray, " pairs"], is_rejected: Bool[np.ndarray, " pairs"]) -> DiscardCurve:
    """The error-versus-discard characteristic of pairs of one person.

    Args:
        quality: of each pair, higher is better; one pair at least, and not NaN.
        is_rejected: whether its distance reaches the threshold, which is that of no discard.
    """
    shares, rates = _steps(quality[None], is_rejected, np.ones((1, len(quality))))
    points = np.flatnonzero(np.diff(shares[0], prepend=-1.0))
    return DiscardCurve(shares[0, points], rates[0, points])


def ideal_curve(is_rejected: Bool[np.ndarray, " pairs"]) -> DiscardCurve:
    """The lowest curve there can be: every rejected pair leaves before every other one, pair by pair."""
    leaving = np.argsort(~is_rejected, kind="stable")
    return discard_curve(np.argsort(leaving).astype(np.float64), is_rejected)


def random_areas(
    quality: Float[np.ndarray, " images"],
    row_a: Int[np.ndarray, " pairs"],
    row_b: Int[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    limits: Sequence[float],
    *,
    permutations: int,
    seed: int = 0,
) -> Float64[np.ndarray, "limits permutations"]:
    """Areas that the same qualities give where chance hands them to the images: what a score is to be better than.

    Args:
        quality: of each image, of which all occur in a pair.
        row_a: row of each pair's left image.
        row_b: row of its right image.
        is_rejected: whether its distance reaches the threshold.
        limits: of the areas.
        permutations: how many times.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    areas = []
    for some in _parts(permutations):
        shuffled = np.stack([pair_quality(rng.permutation(quality), row_a, row_b) for _ in range(some)])
        shares, rates = _steps(shuffled, is_rejected, np.ones_like(shuffled))
        areas.append([_areas(shares, rates, limit) for limit in limits])
    return np.concatenate(areas, axis=1)


class ResampledAreas(NamedTuple):
    """What a bootstrap gives."""

    areas: Float64[np.ndarray, "limits resamples"]
    starts: Float64[np.ndarray, " resamples"]
    """Rates before anything is discarded."""


def resampled_areas(
    quality: Float[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    people: Int[np.ndarray, " pairs"],
    limits: Sequence[float],
    *,
    resamples: int,
    seed: int = 0,
) -> ResampledAreas:
    """Bootstrap over people: as many are drawn with replacement as there are, each with all pairs.

    The threshold stays, so that the spread is that of people and not that of the threshold.

    Args:
        quality: of each pair.
        is_rejected: whether its distance reaches the threshold.
        people: number of each pair's person; each pair's own number where people are not known.
        limits: of the areas.
        resamples: how many times.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    known, person = np.unique(people, return_inverse=True)
    areas, starts = [], []
    for some in _parts(resamples):
        drawn = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=some)
        weights = drawn[:, person].astype(np.float64)
        shares, rates = _steps(quality[None], is_rejected, weights)
        areas.append([_areas(shares, rates, limit) for limit in limits])
        starts.append(rates[:, 0])
    return ResampledAreas(np.concatenate(areas, axis=1), np.concatenate(starts))


def _parts(count: int, size: int = 100) -> list[int]:
    """So many rows at a time, that they fit into memory with thousands of pairs."""
    return [min(size, count - start) for start in range(0, count, size)]


def _steps(
    quality: Float[np.ndarray, "orders pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "rows pairs"],
) -> tuple[Float64[np.ndarray, "rows pairs"], Float64[np.ndarray, "rows pairs"]]:
    """Shares discarded and rates of those left, before the first pair leaves and after each but the last.

    In the midst of a group of equal quality both are those of its beginning. Where nothing is left the rate is 0.

    Args:
        quality: one order for all rows, or one for each.
        is_rejected: whether a pair is rejected.
        weights: how often each pair counts.
    """
    order = np.argsort(quality, axis=1, kind="stable")
    ascending = np.take_along_axis(quality, order, axis=1)
    is_first = np.diff(ascending, axis=1, prepend=-np.inf) > 0
    first_of_group = np.maximum.accumulate(np.where(is_first, np.arange(quality.shape[1]), 0), axis=1)
    count = np.take_along_axis(weights, order, axis=1)
    rejected = count * is_rejected[order]
    gone, rejected_gone = (
        np.take_along_axis(np.cumsum(counted, axis=1) - counted, first_of_group, axis=1)
        for counted in (count, rejected)
    )
    left = count.sum(axis=1, keepdims=True) - gone
    rates = np.zeros_like(left)
    np.divide(rejected.sum(axis=1, keepdims=True) - rejected_gone, left, out=rates, where=left > 0)
    return gone / count.sum(axis=1, keepdims=True), rates


def _areas(
    shares: Float64[np.ndarray, "rows points"], rates: Float64[np.ndarray, "rows points"], limit: float
) -> Float64[np.ndarray, " rows"]:
    """Mean of each step function from 0 to the limit."""
    width = np.diff(np.minimum(shares, limit), append=limit, axis=1)
    return np.asarray((width * rates).sum(axis=1) / limit)
