"""Verification metrics from distances.

One convention throughout: a pair is accepted (called the same person) when `distance < threshold`. Distances may be
plain or squared L2, as long as distances and threshold agree; the protocol uses plain L2. Pairs at equal distances are
never separated: they are accepted together or rejected together.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import auc, roc_curve

from facegm.eval.rates import ROUGH, Rate, allowed_errors


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
    best = np.flatnonzero(correct[accepted] == correct[accepted].max())
    return float(_thresholds(value[accepted[:-1]])[best[(len(best) - 1) // 2]])


def _thresholds(value: Float[np.ndarray, " values"]) -> Float[np.ndarray, " splits"]:
    """Thresholds that accept none, one, and so on up to all of distinct distances in ascending order."""
    low, high = value[:-1], value[1:]
    middle = low + (high - low) / 2
    between = np.where(middle > low, middle, high)  # between adjacent floats the midpoint rounds to one of them
    return np.concatenate((value[:1], between, np.nextafter(value[-1:], np.inf)))


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
    allowed = allowed_errors(false_accept_rate, len(different))
    return float(np.partition(different, allowed)[allowed])


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic: one point for every split of the distances, strictest first."""

    false_accept_rate: Float[np.ndarray, " points"]
    """Accepted share of the pairs of different people, ascending from 0 to 1."""
    true_accept_rate: Float[np.ndarray, " points"]
    """Accepted share of the pairs of one person, ascending from 0 to 1."""
    threshold: Float[np.ndarray, " points"]
    """Pairs at a smaller distance are accepted; in the middle between distances, as in `best_threshold`."""

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
    false_accept_rate, true_accept_rate, score = roc_curve(same, -distances, drop_intermediate=False)
    value = -score[1:].astype(distances.dtype)  # the distinct distances, ascending
    return Roc(false_accept_rate, true_accept_rate, _thresholds(value))


@dataclass(frozen=True, kw_only=True)
class TrueAcceptRate:
    """True accept rate at a bound on the false accept rate (TAR at FAR)."""

    false_accept_bound: float
    """The false accept rate asked for."""
    threshold: float
    """Pairs at a smaller distance are accepted."""
    false_accepted: Rate
    """Accepted share of the pairs of different people, at most the bound."""
    true_accepted: Rate
    """Accepted share of the pairs of one person; its interval takes the threshold as given."""

    @property
    def false_accepts(self) -> int:
        """Number of false accepts behind the figure."""
        return self.false_accepted.count

    @property
    def allowed(self) -> int:
        """Number of false accepts that the bound allows."""
        return allowed_errors(self.false_accept_bound, self.false_accepted.trials)

    @property
    def is_rough(self) -> bool:
        """Whether so few false accepts are allowed that other pairs would give another threshold."""
        return self.allowed < ROUGH

    @property
    def rate(self) -> float | None:
        """The true accept rate; None, not measurable, where the bound allows no false accept among so few pairs."""
        return self.true_accepted.value if self.allowed else None

    def describe(self) -> dict[str, object]:
        """Every number, for JSON."""
        return {
            "false_accept_bound": self.false_accept_bound,
            "rate": self.rate,
            "interval": [*self.true_accepted.interval] if self.allowed else None,
            "is_rough": self.is_rough,
            "threshold": self.threshold,
            "false_accepts": self.false_accepts,
            "false_accept_interval": [*self.false_accepted.interval],
        }

    def __str__(self) -> str:
        different = self.false_accepted.trials
        if self.rate is None:
            return f"not measurable by {different:,} pairs of different people"
        low, high = self.true_accepted.interval
        rough = ", rough" if self.is_rough else ""
        return f"{self.rate:.2%} ({low:.2%} to {high:.2%}; {self.false_accepts} false accepts{rough})"


def true_accept_rate(
    distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], false_accept_bound: float
) -> TrueAcceptRate:
    """Accept as many pairs as the bound on the false accept rate allows, without interpolating between pairs.

    Args:
        distances: distance of every pair.
        same: True where a pair shows one person; there are pairs of both kinds.
        false_accept_bound: on the share of pairs of different people that is accepted, 0 to 1.
    """
    curve = roc(distances, same)
    matched, different = (int(np.count_nonzero(kind)) for kind in (same, ~same))
    false_accepts = np.rint(curve.false_accept_rate * different).astype(int)
    point = int(np.searchsorted(false_accepts, allowed_errors(false_accept_bound, different), side="right")) - 1
    return TrueAcceptRate(
        false_accept_bound=false_accept_bound,
        threshold=float(curve.threshold[point]),
        false_accepted=Rate(count=int(false_accepts[point]), trials=different),
        true_accepted=Rate(count=round(curve.true_accept_rate[point] * matched), trials=matched),
    )
