"""Error versus discard: how the errors of a verification fall while the pairs of lowest quality are discarded.

The error-versus-discard characteristic (EDC) of ISO/IEC 29794-1 and of Grother and Tabassi 2007, of pairs of one
person: the share of them that is rejected (false non-match rate, FNMR) against the share of them that is discarded. The
threshold stays what it was before anything was discarded: one that is chosen anew from the pairs that are left, as some
scripts do, answers another question. Pairs of equal quality leave together, for nothing says which of them first, so
the curve has points only where a group ends, and between them it stays where it was (Schlett et al. 2023).
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
    shares, rates = _points(quality, is_rejected, np.ones((1, len(quality))))
    return DiscardCurve(shares[0], rates[0])


def ideal_curve(is_rejected: Bool[np.ndarray, " pairs"]) -> DiscardCurve:
    """The lowest curve there can be: every rejected pair leaves before every other one, pair by pair."""
    leaving = np.argsort(~is_rejected, kind="stable")
    return discard_curve(np.argsort(leaving).astype(np.float64), is_rejected)


def random_areas(
    quality: Float[np.ndarray, " images"],
    row_a: Int[np.ndarray, " pairs"],
    row_b: Int[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    limit: float,
    *,
    permutations: int = 200,
    seed: int = 0,
) -> Float64[np.ndarray, " permutations"]:
    """Areas that the same qualities give where chance hands them to the images: what a score is to be better than.

    Args:
        quality: of each image, of which all occur in a pair.
        row_a: row of each pair's left image.
        row_b: row of its right image.
        is_rejected: whether its distance reaches the threshold.
        limit: of the area.
        permutations: how many times.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    shuffled = (pair_quality(rng.permutation(quality), row_a, row_b) for _ in range(permutations))
    return np.array([discard_curve(one, is_rejected).area(limit) for one in shuffled])


def resampled_areas(
    quality: Float[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    people: Int[np.ndarray, " pairs"],
    limit: float,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, " resamples"], Float64[np.ndarray, " resamples"]]:
    """Bootstrap over people: as many are drawn with replacement as there are, each with all pairs.

    The threshold stays, so that the spread is that of people and not that of the threshold.

    Args:
        quality: of each pair.
        is_rejected: whether its distance reaches the threshold.
        people: number of each pair's person, from 0; each pair's own number where people are not known.
        limit: of the area.
        resamples: how many times.
        seed: of the draws.

    Returns:
        The areas, and the rates before anything is discarded.
    """
    areas, starts = [], []
    for weights in _drawn_weights(people, resamples, seed):
        shares, rates = _points(quality, is_rejected, weights)
        areas.append(_areas(shares, rates, limit))
        starts.append(rates[:, 0])
    return np.concatenate(areas), np.concatenate(starts)


def _drawn_weights(
    people: Int[np.ndarray, " pairs"], resamples: int, seed: int, rows: int = 100
) -> Iterator[Float64[np.ndarray, "some pairs"]]:
    """How often each pair is drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    _, number = np.unique(people, return_inverse=True)
    count = int(number.max()) + 1
    for start in range(0, resamples, rows):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start))
        yield drawn[:, number].astype(np.float64)


def _points(
    quality: Float[np.ndarray, " pairs"],
    is_rejected: Bool[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
) -> tuple[Float64[np.ndarray, "resamples points"], Float64[np.ndarray, "resamples points"]]:
    """Shares discarded and rates of those left, where pairs count several times or not at all.

    A point stands before the first pair leaves and after each group of equal quality but the last. Where a resample has
    nothing left, its share is 1 and its rate 0.
    """
    order = np.argsort(quality, kind="stable")
    ascending, count = quality[order], weights[:, order]
    last_of_group = np.flatnonzero(ascending[1:] > ascending[:-1])
    none = np.zeros((len(weights), 1))
    gone, rejected_gone = (
        np.concatenate([none, np.cumsum(counted, axis=1)[:, last_of_group]], axis=1)
        for counted in (count, count * is_rejected[order])
    )
    left, rejected = count.sum(axis=1, keepdims=True) - gone, (count @ is_rejected[order])[:, None] - rejected_gone
    shares = gone / count.sum(axis=1, keepdims=True)
    return shares, np.divide(rejected, left, out=np.zeros_like(left), where=left > 0)


def _areas(
    shares: Float64[np.ndarray, "resamples points"], rates: Float64[np.ndarray, "resamples points"], limit: float
) -> Float64[np.ndarray, " resamples"]:
    """Mean of each step function from 0 to the limit."""
    width = np.diff(np.minimum(shares, limit), append=limit, axis=1)
    return np.asarray((width * rates).sum(axis=1) / limit)
