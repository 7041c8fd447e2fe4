"""From out-of-fold distances, of any score, to what they mean: likelihood ratios, probabilities, thresholds.

A calibration of a fold is fitted on the out-of-fold distances of all other folds. The cost of likelihood ratios is Cllr
(Bruemmer & du Preez, "Application-independent evaluation of speaker detection", 2006). Intervals take pairs as
independent, which pairs that share people are not quite: they are narrow rather than wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from facegm.embedding.calibration import Calibration, DistanceHistogram, MatchThreshold
from facegm.errors import FacegmError
from facegm.eval.protocol import Verification
from facegm.eval.quantiles import low_quantile
from facegm.eval.scores import NO_PCA

BINS = 15
"""Of equal width, for the calibration error, as Guo et al. 2017 take them."""
HISTOGRAM_BINS, LONGEST = 40, 2.0
"""Of equal width, for the distances that an embedder carries; the largest distance of unit vectors."""
FALSE_MATCH_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Whose thresholds are stored, as far as there are pairs enough."""


@dataclass(frozen=True, kw_only=True)
class AffineCalibration:
    """log-likelihood ratio (nats) = offset + slope * distance."""

    offset: float
    slope: float

    def log_likelihood_ratio(self, distances: Float[np.ndarray, " pairs"]) -> Float64[np.ndarray, " pairs"]:
        """That pairs show one person, in nats."""
        return self.offset + self.slope * distances.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Pairs whose probability lies between two bounds."""

    above: float
    up_to: float
    pairs: int
    probability: float | None
    """Their mean probability; None where there are no pairs."""
    same: float | None
    """Share of them that does show one person."""
    interval: tuple[float, float] | None
    """Exact (Clopper-Pearson) 95 % interval of that share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationReport:
    """How well the log-likelihood ratios of one score, calibrated on other folds, mean what they say."""

    log_likelihood_ratios: Float64[np.ndarray, " pairs"]
    """Of all pairs, in nats, out of fold."""
    cllr: float
    minimum_cllr: float
    """Of the distances, in bits; `cllr` less this is what the calibration costs."""
    reliability: tuple[ReliabilityBin, ...]
    """Of the probabilities at the pairs' own share of one person."""
    calibration_error: float
    """Expected calibration error: mean of |share - probability| over the bins, weighted by their pairs."""


def calibrate(
    distances: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], fold: Int[np.ndarray, " pairs"]
) -> CalibrationReport:
    """Calibrate every fold's distances by those of all others, each under a score that did not see its own fold.

    Args:
        distances: out-of-fold distances, as `Verification.distances` has them.
        same: True where a pair shows one person; pairs of both kinds outside each fold.
        fold: fold of every pair.
    """
    ratios = np.empty(len(distances))
    for held_out in np.unique(fold):
        test = fold == held_out
        ratios[test] = fit_affine(distances[~test], same[~test]).log_likelihood_ratio(distances[test])
    bins = reliability(expit(ratios + logit(same.mean())), same)
    return CalibrationReport(
        log_likelihood_ratios=ratios,
        cllr=cllr(ratios, same),
        minimum_cllr=minimum_cllr(distances, same),
        reliability=bins,
        calibration_error=calibration_error(bins),
    )


def fit_affine(distances: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> AffineCalibration:
    """Fit by logistic regression in which both kinds of pairs weigh as much, so that its log-odds are the ratio.

    Every pair counts by a small share as the other kind, (n + 1) / (n + 2) of n of its kind as its own (Platt,
    "Probabilistic outputs for support vector machines", 1999): so the fit exists where distances separate the kinds.
    """
    center, spread = distances.mean(), distances.std() or 1.0
    standardised = (distances - center) / spread
    count = np.where(same, np.count_nonzero(same), np.count_nonzero(~same))
    as_it_is = (count + 1) / (count + 2)
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9)
    regression.fit(
        np.concatenate([standardised, standardised])[:, None],
        np.concatenate([same, ~same]),
        sample_weight=np.concatenate([as_it_is / count, (1 - as_it_is) / count]),
    )
    slope, offset = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    return AffineCalibration(offset=float(offset - slope * center / spread), slope=float(slope / spread))


def cllr(log_likelihood_ratios: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> float:
    """Cost of log-likelihood ratios (nats), in bits: 0 is perfect, 1 is that of ratios that say nothing."""
    of_same = np.logaddexp(0, -log_likelihood_ratios[same]).mean()
    of_different = np.logaddexp(0, log_likelihood_ratios[~same]).mean()
    return float((of_same + of_different) / 2 / np.log(2))


def minimum_cllr(distances: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> float:
    """The Cllr after the best non-increasing map of the distances to ratios, fitted on these very pairs.

    Found by pooling adjacent violators; pairs of equal distance are never separated.
    """
    rank = np.unique(distances, return_inverse=True)[1].astype(np.float64)  # else distances near 1e-15 count as equal
    weight = np.where(same, 1 / np.count_nonzero(same), 1 / np.count_nonzero(~same))
    posterior = IsotonicRegression(increasing=False, y_min=0, y_max=1).fit_transform(rank, same, sample_weight=weight)
    return cllr(logit(posterior), same)


def reliability(
    probability: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]
) -> tuple[ReliabilityBin, ...]:
    """Compare probabilities with the share of pairs that do show one person, in `BINS` bins."""
    number = np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for bin_number in range(BINS):
        inside = number == bin_number
        pairs, found = int(inside.sum()), int(same[inside].sum())
        interval = binomtest(found, pairs).proportion_ci(method="exact") if pairs else None
        bins.append(
            ReliabilityBin(
                above=bin_number / BINS,
                up_to=(bin_number + 1) / BINS,
                pairs=pairs,
                probability=float(probability[inside].mean()) if pairs else None,
                same=found / pairs if pairs else None,
                interval=None if interval is None else (float(interval.low), float(interval.high)),
            )
        )
    return tuple(bins)


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean of |share - probability| over the bins, weighted by their pairs."""
    filled = [
        (one.pairs, one.same - one.probability) for one in bins if one.same is not None and one.probability is not None
    ]
    return sum(pairs * abs(gap) for pairs, gap in filled) / sum(pairs for pairs, _ in filled)


def match_threshold(different: Float64[np.ndarray, " pairs"], false_match_rate: float) -> MatchThreshold | None:
    """The largest threshold that accepts no more than a share of the pairs of different people.

    Args:
        different: distances of pairs of different people.
        false_match_rate: the share, above 0 and below 1.

    Returns:
        None where there are too few pairs for even one of them to be accepted: not measurable.
    """
    found = low_quantile(different, false_match_rate)
    if found is None:
        return None
    return MatchThreshold(
        false_match_rate=false_match_rate,
        threshold=found.bound,
        interval=found.interval,
        false_matches=found.below,
    )


def distance_histogram(distances: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> DistanceHistogram:
    """Count the distances of unit vectors, 0 to 2, of both kinds of pairs; the last bin has what rounds beyond 2."""
    edges = np.linspace(0, LONGEST, HISTOGRAM_BINS + 1)
    of_same, of_different = (np.histogram(np.minimum(distances[kind], LONGEST), edges)[0] for kind in (same, ~same))
    return DistanceHistogram(
        edges=tuple(edges.tolist()), same=tuple(of_same.tolist()), different=tuple(of_different.tolist())
    )


def embedder_calibration(
    verification: Verification, same: Bool[np.ndarray, " pairs"], fold: Int[np.ndarray, " pairs"], *, measured_on: str
) -> Calibration:
    """What an exported embedder is to know of its distances: fitted on all pairs, its quality measured out of fold.

    Args:
        verification: of that embedder, without PCA, since that is how it compares two photos.
        same: True where a pair shows one person.
        fold: fold of every pair.
        measured_on: name of the set.

    Raises:
        FacegmError: a verification by another score.
    """
    if verification.variant != NO_PCA:
        raise FacegmError(
            f"calibration: an embedder compares photos by {NO_PCA.name!r}, but {verification.variant.name!r} was "
            "measured"
        )
    distances = verification.distances
    measured, affine = calibrate(distances, same, fold), fit_affine(distances, same)
    thresholds = [match_threshold(distances[~same], rate) for rate in FALSE_MATCH_RATES]
    return Calibration(
        measured_on=measured_on,
        same=int(np.count_nonzero(same)),
        different=int(np.count_nonzero(~same)),
        offset=affine.offset,
        slope=affine.slope,
        cllr=measured.cllr,
        minimum_cllr=measured.minimum_cllr,
        calibration_error=measured.calibration_error,
        thresholds=tuple(found for found in thresholds if found is not None),
        histogram=distance_histogram(distances, same),
    )
