"""Error rates in the terms of ISO/IEC 19795-1: of the comparison alone, and of a system that also fails to acquire."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from facegm.eval.metrics import roc
from facegm.eval.rates import Rate, share_of


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold does to pairs.

    A pair is not acquired where the face of one of its photos was not found, so that a fallback crop stands for it. FMR
    and FNMR are of the pairs that were acquired; for FAR and FRR the others count too, as rejected, whatever their
    distance. So FAR = FMR (1 - FTA of different pairs), FRR = FTA of same pairs + FNMR (1 - FTA of same pairs).
    """

    threshold: float | None
    """Pairs at a smaller distance are accepted; None where each pair had its own, such as its fold's."""
    false_match: Rate
    """FMR: accepted share of the acquired pairs of different people."""
    false_non_match: Rate
    """FNMR: rejected share of the acquired pairs of one person."""
    failure_to_acquire: Rate
    """FTA: share of all pairs that is not acquired."""
    false_accept: Rate
    """FAR: accepted share of all pairs of different people."""
    false_reject: Rate
    """FRR: rejected share of all pairs of one person."""

    def describe(self) -> dict[str, object]:
        """Every number, for JSON."""
        rates = {
            "false_match": self.false_match,
            "false_non_match": self.false_non_match,
            "failure_to_acquire": self.failure_to_acquire,
            "false_accept": self.false_accept,
            "false_reject": self.false_reject,
        }
        return {"threshold": self.threshold} | {name: rate.describe() for name, rate in rates.items()}


def operating_point(
    distances: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    threshold: float | Float[np.ndarray, " pairs"],
    acquired: Bool[np.ndarray, " pairs"] | None = None,
) -> OperatingPoint:
    """Count the errors of `distance < threshold`.

    Args:
        distances: distance of every pair, also of those that were not acquired.
        same: True where a pair shows one person.
        threshold: one for all pairs, or each pair's own.
        acquired: True where the faces of both photos were found; None where all were.
    """
    if acquired is None:
        acquired = np.ones(len(same), dtype=bool)
    accepted = distances < threshold
    passed = accepted & acquired
    return OperatingPoint(
        threshold=None if isinstance(threshold, np.ndarray) else threshold,
        false_match=share_of(accepted, ~same & acquired),
        false_non_match=share_of(~accepted, same & acquired),
        failure_to_acquire=share_of(~acquired, np.ones_like(acquired)),
        false_accept=share_of(passed, ~same),
        false_reject=share_of(~passed, same),
    )


@dataclass(frozen=True, eq=False)
class Det:
    """Detection error tradeoff: both error rates at every split of the distances, strictest first."""

    false_match_rate: Float[np.ndarray, " points"]
    """Accepted share of the pairs of different people, ascending from 0 to 1."""
    false_non_match_rate: Float[np.ndarray, " points"]
    """Rejected share of the pairs of one person, descending from 1 to 0."""
    threshold: Float[np.ndarray, " points"]
    """Pairs at a smaller distance are accepted."""

    def thinned(self, step: float = 0.01) -> "Det":
        """The points that matter on axes of normal deviates, where Gaussian scores lie on a straight line.

        Points where a rate is 0 or 1, which has no deviate, are left out. The plane of deviates is cut into squares, of
        the neighbours in a square the first and the last one are kept, and what is left out is off by no more than a
        square's side.

        Args:
            step: side of the squares, in standard deviations.
        """
        inside = np.flatnonzero((self.false_match_rate > 0) & (self.false_non_match_rate > 0))
        inside = inside[(self.false_match_rate[inside] < 1) & (self.false_non_match_rate[inside] < 1)]
        deviates = norm.ppf([self.false_match_rate[inside], self.false_non_match_rate[inside]])
        moved = (np.diff(np.floor(deviates / step), axis=1) != 0).any(axis=0)
        ends = np.ones(min(len(inside), 1), dtype=bool)
        kept = inside[np.concatenate([ends, moved]) | np.concatenate([moved, ends])]
        return Det(self.false_match_rate[kept], self.false_non_match_rate[kept], self.threshold[kept])


def det(distances: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> Det:
    """Compute the DET over both kinds of pairs; every distinct distance keeps its point."""
    curve = roc(distances, same)
    return Det(curve.false_accept_rate, 1 - curve.true_accept_rate, curve.threshold)
