"""Bootstrap intervals of one score's figures, and the band about its ROC curve."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from facegm.eval.bootstrap import IdentityBootstrap, PairBootstrap
from facegm.eval.protocol import Verification
from facegm.eval.rates import CONFIDENCE, Rate
from facegm.eval.resampled import percentile_interval, resampled_rates
from facegm.eval.sets.pairs import Pairs

Interval = tuple[float, float]

_BAND_POINTS = 60
"""False accept rates at which the band is known, closer together at the strict end."""


@dataclass(frozen=True, eq=False)
class Band:
    """What holds 95 % of the resampled ROC curves, at each false accept rate on its own."""

    false_accept_rate: Float64[np.ndarray, " points"]
    """Ascending, from that of one false accept to 1."""
    low: Float64[np.ndarray, " points"]
    """Of the true accept rate."""
    high: Float64[np.ndarray, " points"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """95 % intervals, thresholds held fixed for the accuracy; those of rates 0 to 1."""

    unit: str
    """What was drawn with replacement: `people`, or `pairs` where nobody knows who is on them."""
    resamples: int
    accuracy: Interval
    area: Interval
    """Of the area under the ROC curve."""
    equal_error_rate: Interval
    band: Band

    def describe(self) -> dict[str, object]:
        """All but the band, for JSON."""
        return {
            "unit": self.unit,
            "resamples": self.resamples,
            "confidence": CONFIDENCE,
            "accuracy": [*self.accuracy],
            "area_under_roc": [*self.area],
            "equal_error_rate": [*self.equal_error_rate],
        }


def bootstrap_intervals(pairs: Pairs, verification: Verification) -> Intervals:
    """Draw people, or else pairs, a thousand times.

    Args:
        pairs: those that were scored.
        verification: how.
    """
    people = pairs.people
    bootstrap = PairBootstrap(pairs.same) if people is None else IdentityBootstrap(*people)
    different = int(np.count_nonzero(~pairs.same))
    grid = np.geomspace(1 / different, 1, _BAND_POINTS)
    rates = resampled_rates(
        bootstrap, verification.distances, verification.fold_threshold[pairs.fold], false_accept_bounds=grid.tolist()
    )
    low, high = np.quantile(rates.true_accept_rate, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Intervals(
        unit=bootstrap.unit,
        resamples=len(rates.accuracy),
        accuracy=_accuracy_interval(pairs, verification, rates.accuracy),
        area=percentile_interval(rates.area),
        equal_error_rate=percentile_interval(rates.equal_error_rate),
        band=Band(grid, low, high),
    )


def _accuracy_interval(
    pairs: Pairs, verification: Verification, resampled: Float64[np.ndarray, " resamples"]
) -> Interval:
    """Without a mistake all resamples are alike, and the exact interval says how sure that is."""
    wrong = (verification.distances < verification.fold_threshold[pairs.fold]) != pairs.same
    return percentile_interval(resampled) if wrong.any() else Rate(count=len(pairs), trials=len(pairs)).interval
