"""What distances of an embedder's photos mean, as measured on a set of pairs; travels in the exported file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, isfinite, log
from typing import Any

from facegm.errors import FacegmError


@dataclass(frozen=True, kw_only=True)
class MatchThreshold:
    """The threshold of a wanted false-match rate."""

    false_match_rate: float
    """The rate that was asked for: accepted share of the pairs of different people."""
    threshold: float
    """Largest distance that keeps to it on the measured pairs; pairs below it count as one person's."""
    interval: tuple[float | None, float | None]
    """95 % interval of the threshold that has the rate; None on a side that the pairs do not bound."""
    false_matches: int
    """Pairs of different people below the threshold: few of them make it a rough one."""


@dataclass(frozen=True, kw_only=True)
class DistanceHistogram:
    """How the distances of the measured pairs are spread."""

    edges: tuple[float, ...]
    """Of the bins, ascending from 0 to 2: one more than there are bins."""
    same: tuple[int, ...]
    """Pairs of one person in each bin."""
    different: tuple[int, ...]
    """Pairs of different people in each bin."""

    def __post_init__(self) -> None:
        bins = len(self.edges) - 1
        if bins < 1 or len(self.same) != bins or len(self.different) != bins or [*self.edges] != sorted(self.edges):
            raise ValueError(f"histogram of {len(self.edges)} edges, {len(self.same)} and {len(self.different)} counts")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the L2 distance (not squared) of normalised embeddings tells people apart, on the pairs of one set."""

    measured_on: str
    """Name of the set."""
    same: int
    """Its pairs of one person."""
    different: int
    """Its pairs of different people."""
    offset: float
    slope: float
    """The log-likelihood ratio that a pair is of one person, in nats, is offset + slope * distance."""
    cllr: float
    """Cost of the log-likelihood ratios in bits, out of fold: 0 is perfect, 1 says nothing."""
    minimum_cllr: float
    """The same after the best monotone calibration there is: what telling apart, not calibration, costs."""
    calibration_error: float
    """Expected calibration error of the probability, out of fold."""
    thresholds: tuple[MatchThreshold, ...]
    """Of the false-match rates that the set has pairs enough for."""
    histogram: DistanceHistogram | None = None
    """Of the distances; None where an earlier facegm calibrated the embedder."""

    def probability(self, distance: float, *, prior: float = 0.5) -> float:
        """Probability that a pair is of one person.

        Args:
            distance: L2 distance of the normalised embeddings.
            prior: the probability before the photos are looked at, between 0 and 1: the share of such pairs where it is
                applied.

        Raises:
            FacegmError: a prior that is not between 0 and 1.
        """
        if not 0 < prior < 1:
            raise FacegmError(f"prior {prior}: expected a probability above 0 and below 1")
        log_odds = self.offset + self.slope * distance + log(prior) - log(1 - prior)
        return 1 / (1 + exp(-log_odds)) if log_odds > 0 else exp(log_odds) / (1 + exp(log_odds))

    def threshold_at(self, false_match_rate: float) -> float:
        """The threshold of a false-match rate that was measured.

        Raises:
            FacegmError: another rate.
        """
        for found in self.thresholds:
            if found.false_match_rate == false_match_rate:
                return found.threshold
        measured = ", ".join(f"{found.false_match_rate:g}" for found in self.thresholds) or "none"
        raise FacegmError(
            f"false-match rate {false_match_rate:g}: {self.measured_on} gave thresholds of {measured}; take one of "
            "those, or give a threshold"
        )

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "Calibration":
        """Read what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        thresholds = [
            MatchThreshold(**found | {"interval": (found["interval"][0], found["interval"][1])})
            for found in description["thresholds"]
        ]
        found = description.get("histogram")
        histogram = None if found is None else DistanceHistogram(**{name: tuple(row) for name, row in found.items()})
        calibration = cls(**{**description, "thresholds": tuple(thresholds), "histogram": histogram})
        if not isfinite(calibration.offset) or not isfinite(calibration.slope):
            raise ValueError(f"calibration {calibration.offset} + {calibration.slope} * distance")
        return calibration
