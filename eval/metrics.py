"""Verification metrics from distances.

One convention throughout: a pair is accepted (called the same person) when `distance < threshold`. Distances may be
plain or squared L2, as long as distances and threshold agree; the protocol uses plain L2. Pairs at equal distances are
never separated: they are accepted together or rejected together.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import auc, roc_curve


def best_threshold(distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> float:
    """Find the threshold of highest accuracy exactly, by trying every way to split the sorted distances.

    Candidates are the midpoints between neighbouring distinct distances, the smallest distance (nothing is accepted)
    and the next number above the largest (everything is). Of several candidates with the highest accuracy, sorted, the
    middle one is returned; of an even number of them, the lower of the two in the middle.

    Args:
        distances: distance of every pair, finite, at least one.
        same: True where a pair shows one person.
    """
    order = np.argsort(distances, kind="stable")
    value, matched = distances[order], same[order]
    # correct[k]: pairs judged rightly when the k smallest distances are accepted
    correct = np.concatenate(([0], np.cumsum(np.where(matched, 1, -1)))) + np.count_nonzero(~matched)
    accepted = np.concatenate(([0], np.flatnonzero(value[1:] > value[:-1]) + 1, [len(value)]))
    best = accepted[correct[accepted] == correct[accepted].max()]
    count = int(best[(len(best) - 1) // 2])
    if count == 0:
        return float(value[0])
    if count == len(value):
        return float(np.nextafter(value[-1], np.inf))
    low, high = value[count - 1], value[count]
    middle = low + (high - low) / 2
    return float(middle if middle > low else high)  # between adjacent floats the midpoint rounds to one of them


def accuracy_at(
    threshold: float | Float[np.ndarray, " pairs"],
    distances: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
) -> float:
    """Share of the pairs judged rightly by `distance < threshold`; one threshold, or each pair's own."""
    return float(np.mean((distances < threshold) == same))


def threshold_at(different: Float[np.ndarray, " pairs"], false_accept_rate: float) -> float:
    """The largest threshold that accepts no more than a share of pairs of different people.

    Args:
        different: their distances, of which those below the threshold are accepted.
        false_accept_rate: the share, below 1.
    """
    allowed = int(false_accept_rate * len(different) + 1e-9)  # 0.29 * 100 is 28.999...
    return float(np.partition(different, allowed)[allowed])


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic: one point for every split of the distances, strictest first."""

    false_accept_rate: Float[np.ndarray, " points"]
    """Accepted share of the pairs of different people, ascending from 0 to 1."""
    true_accept_rate: Float[np.ndarray, " points"]
    """Accepted share of the pairs of one person, ascending from 0 to 1."""

    @property
    def area(self) -> float:
        """Area under the curve: the chance that a same pair is closer than a different one, a tie counting half."""
        return float(auc(self.false_accept_rate, self.true_accept_rate))

    @property
    def equal_error_rate(self) -> float:
        """Rate where false accepts and false rejects are equally frequent, interpolated linearly between points."""
        excess = self.false_accept_rate - (1 - self.true_accept_rate)  # strictly ascending: each point accepts more
        return float(np.interp(0, excess, self.false_accept_rate))


def roc(distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> Roc:
    """Compute the ROC over both kinds of pairs; every distinct distance keeps its point."""
    false_accept_rate, true_accept_rate, _ = roc_curve(same, -distances, drop_intermediate=False)
    return Roc(false_accept_rate, true_accept_rate)


@dataclass(frozen=True, kw_only=True)
class TrueAcceptRate:
    """True accept rate at a bound on the false accept rate (TAR at FAR)."""

    false_accept_bound: float
    """The false accept rate asked for."""
    false_accepts: int
    """Number of false accepts behind the figure: few of them make it a rough one."""
    rate: float
    """Accepted share of the pairs of one person."""


def true_accept_rate(
    distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], false_accept_bound: float
) -> TrueAcceptRate:
    """Accept as many pairs as the bound on the false accept rate allows, without interpolating between pairs."""
    curve = roc(distances, same)
    different = np.count_nonzero(~same)
    false_accepts = np.rint(curve.false_accept_rate * different).astype(int)
    allowed = int(false_accept_bound * different + 1e-9)  # 0.07 * 100 is 7.000000000000001, 0.29 * 100 is 28.999...
    point = int(np.searchsorted(false_accepts, allowed, side="right")) - 1
    return TrueAcceptRate(
        false_accept_bound=false_accept_bound,
        false_accepts=int(false_accepts[point]),
        rate=float(curve.true_accept_rate[point]),
    )
