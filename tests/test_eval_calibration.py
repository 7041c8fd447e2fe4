"""Calibration against sums by loops, scipy's optimiser, brute force and simulated pairs of known likelihood ratio."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import beta

from facegm.embedding.calibration import Calibration
from facegm.errors import FacegmError
from facegm.eval.calibration import (
    calibrate,
    calibration_error,
    cllr,
    distance_histogram,
    embedder_calibration,
    fit_affine,
    match_threshold,
    minimum_cllr,
    reliability,
)
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA, RAW


def normal_pairs(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances of which the log-likelihood ratio is 6 - 4 * distance, by unit variance / 4 around 1 and 2."""
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) % 3 == 0  # a third of them
    return rng.normal(np.where(same, 1.0, 2.0), 0.5), same, np.arange(pairs) // 3 % 5


def naive_cllr(ratios: np.ndarray, same: np.ndarray) -> float:
    of_same = [math.log2(1 + math.exp(-r)) for r in ratios[same].tolist()]
    of_different = [math.log2(1 + math.exp(r)) for r in ratios[~same].tolist()]
    return (sum(of_same) / len(of_same) + sum(of_different) / len(of_different)) / 2


def test_cllr_is_the_sum_that_its_definition_says() -> None:
    distances, same, _ = normal_pairs(400)
    assert cllr(6 - 4 * distances, same) == pytest.approx(naive_cllr(6 - 4 * distances, same), rel=1e-13)
    assert cllr(np.zeros(400), same) == pytest.approx(1)
    assert cllr(np.where(same, 900.0, -900.0), same) == pytest.approx(0)
    assert cllr(np.where(same, -900.0, 900.0), same) == pytest.approx(900 / math.log(2))  # no overflow


@st.composite
def few_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few distances with many ties, at any scale, and at least one pair of each kind."""
    length = draw(st.integers(2, 9))
    same = draw(st.lists(st.booleans(), min_size=length, max_size=length).filter(lambda s: 0 < sum(s) < len(s)))
    values = draw(st.lists(st.integers(0, 5), min_size=length, max_size=length))
    return np.array(values) * draw(st.sampled_from([1.0, 1e-17, 1e9])), np.array(same)


def brute_force_minimum(distances: np.ndarray, same: np.ndarray) -> float:
    """The lowest Cllr over all ways to cut the sorted distances into groups whose own shares do not increase."""
    values = np.unique(distances)
    lowest = math.inf
    for cuts in range(2 ** (len(values) - 1)):
        group = np.cumsum([0, *(cuts >> k & 1 for k in range(len(values) - 1))])[np.searchsorted(values, distances)]
        share = [((group == g) & same).sum() / same.sum() for g in range(group.max() + 1)]
        others = [((group == g) & ~same).sum() / (~same).sum() for g in range(group.max() + 1)]
        ratio = [math.inf if o == 0 else s / o for s, o in zip(share, others, strict=True)]
        if sorted(ratio, reverse=True) == ratio:
            cost = 0.0
            for s, o in zip(share, others, strict=True):
                cost += s * math.log2(1 + o / s) / 2 if s else 0
                cost += o * math.log2(1 + s / o) / 2 if o else 0
            lowest = min(lowest, cost)
    return lowest


@given(few_pairs())
def test_minimum_cllr_is_the_lowest_of_all_monotone_maps(case: tuple[np.ndarray, np.ndarray]) -> None:
    assert minimum_cllr(*case) == pytest.approx(brute_force_minimum(*case), abs=1e-12)


def smoothed_cost(parameters: np.ndarray, distances: np.ndarray, same: np.ndarray) -> float:
    """Weighted logistic loss with Platt's targets, pair by pair."""
    cost = 0.0
    for distance, is_same in zip(distances.tolist(), same.tolist(), strict=True):
        count = int((same == is_same).sum())
        target = (count + 1) / (count + 2)
        log_odds = (parameters[0] + parameters[1] * distance) * (1 if is_same else -1)
        cost += (target * np.logaddexp(0, -log_odds) + (1 - target) * np.logaddexp(0, log_odds)) / count
    return cost


@pytest.mark.parametrize("scale", [1.0, 1e-7])
@pytest.mark.parametrize("apart", [0.0, 50.0])
def test_affine_fit_is_that_of_scipys_optimiser(scale: float, apart: float) -> None:
    distances, same, _ = normal_pairs(90)
    distances = distances + np.where(same, 0, apart)  # 50 separates the kinds
    expected = minimize(smoothed_cost, [0.0, 0.0], (distances, same), method="BFGS", options={"gtol": 1e-9}).x
    found = fit_affine(distances * scale, same)
    assert [found.offset, found.slope * scale] == pytest.approx(expected, rel=1e-4)
    assert found.slope < 0


def test_known_likelihood_ratios_are_found_whatever_the_share_of_same_pairs() -> None:
    distances, same, fold = normal_pairs(30_000)
    found = fit_affine(distances, same)
    assert found.offset == pytest.approx(6, abs=0.2)
    assert found.slope == pytest.approx(-4, abs=0.15)
    report = calibrate(distances, same, fold)
    true = naive_cllr(6 - 4 * distances, same)
    assert report.cllr == pytest.approx(true, abs=2e-3)
    assert true - 5e-3 < report.minimum_cllr < report.cllr
    assert report.calibration_error < 0.015
    covered = [
        one.interval[0] <= one.probability <= one.interval[1]
        for one in report.reliability
        if one.interval is not None and one.probability is not None
    ]
    assert sum(covered) >= len(covered) - 2


def test_a_folds_calibration_is_that_of_all_others() -> None:
    distances, same, fold = normal_pairs(300)
    before = calibrate(distances, same, fold).log_likelihood_ratios
    after = calibrate(distances, np.where(fold == 2, ~same, same), fold).log_likelihood_ratios
    np.testing.assert_array_equal(after[fold == 2], before[fold == 2])
    assert not np.isclose(after[fold == 1], before[fold == 1]).any()
    own = fit_affine(distances[fold != 2], same[fold != 2])
    np.testing.assert_allclose(before[fold == 2], own.offset + own.slope * distances[fold == 2])


def test_reliability_counts_each_pair_once_with_exact_intervals() -> None:
    probability = np.array([0.0, 1 / 15, 0.07, 0.5, 0.51, 1.0])
    same = np.array([False, False, True, True, False, True])
    bins = reliability(probability, same)
    assert [one.pairs for one in bins] == [2, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    middle = bins[7]
    assert [middle.above, middle.up_to] == pytest.approx([7 / 15, 8 / 15])
    assert [middle.probability, middle.same] == pytest.approx([0.505, 0.5])
    assert middle.interval == pytest.approx((beta.ppf(0.025, 1, 2), beta.ppf(0.975, 2, 1)))
    assert (bins[3].probability, bins[3].same, bins[3].interval) == (None, None, None)
    assert calibration_error(bins) == pytest.approx((2 * (1 / 30) + 0.93 + 2 * 0.005 + 0) / 6)


@pytest.mark.parametrize(
    ("rate", "pairs", "allowed"), [(0.1, 3000, 300), (0.001, 3000, 3), (0.29, 100, 29), (0.5, 3, 1)]
)
def test_threshold_accepts_as_many_different_pairs_as_the_rate_allows(rate: float, pairs: int, allowed: int) -> None:
    different = np.random.default_rng(0).normal(size=pairs)
    found = match_threshold(different, rate)
    assert found is not None
    assert (different < found.threshold).sum() == found.false_matches == allowed
    tied = match_threshold(np.zeros(pairs), rate)
    assert tied is not None
    assert (tied.threshold, tied.false_matches) == (0, 0)  # equal distances stay together


def test_too_few_pairs_for_a_rate_are_not_measurable() -> None:
    assert match_threshold(np.arange(999.0), 1e-3) is None
    found = match_threshold(np.arange(3000.0), 1e-3)
    assert found is not None
    assert found.interval == (None, 7.0)  # 3,000 pairs may well hold none below the true threshold
    assert match_threshold(np.arange(4000.0), 1e-3).interval[0] is not None  # type: ignore[union-attr]


def test_interval_covers_the_true_threshold_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        found = match_threshold(rng.uniform(size=400), 0.05)
        assert found is not None
        low, high = found.interval
        assert low is not None
        assert high is not None
        covered += low <= 0.05 <= high
    assert 0.945 < covered / 2000 < 0.975


def test_opposite_vectors_are_in_the_last_bin() -> None:
    distances = np.array([0.0, 2.0, np.nextafter(2, 3), 1.9999])
    found = distance_histogram(distances, np.array([True, False, False, False]))
    assert (found.same, found.different) == ((1, *[0] * 39), (*[0] * 39, 3))


def test_an_embedders_calibration_is_of_the_distance_it_takes() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(600, 8))
    same, fold = np.arange(600) % 2 == 0, np.arange(600) // 120
    b = np.where(same[:, None], a + 0.6 * rng.normal(size=a.shape), rng.normal(size=a.shape))
    result = verify(a, b, same, fold, variant=NO_PCA)
    found = embedder_calibration(result, same, fold, measured_on="a set")
    affine = fit_affine(result.distances, same)
    assert (found.measured_on, found.same, found.different) == ("a set", 300, 300)
    assert [one.false_match_rate for one in found.thresholds] == [0.1, 0.01]
    expected = 1 / (1 + math.exp(-affine.offset - affine.slope * 0.9) * 0.99 / 0.01)
    assert found.probability(0.9, prior=0.01) == pytest.approx(expected)
    assert found.cllr == calibrate(result.distances, same, fold).cllr
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.histogram is not None
    assert found.histogram.edges == pytest.approx([number / 20 for number in range(41)], abs=1e-12)
    for counts, distances in (
        (found.histogram.same, result.distances[same]),
        (found.histogram.different, result.distances[~same]),
    ):
        assert list(counts) == [sum(min(int(d * 20), 39) == number for d in distances) for number in range(40)]
    raw = verify(a, b, same, fold, variant=RAW)
    with pytest.raises(
        FacegmError, match=r"compares photos by 'no PCA', but 'no PCA, not normalised \(raw L2\)' was measured"
    ):
        embedder_calibration(raw, same, fold, measured_on="a set")
