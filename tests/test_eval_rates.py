"""Error rates by the standard's terms: counts by plain loops, exact intervals by the binomial distribution itself."""

from itertools import pairwise
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.eval.error_rates import det, operating_point
from facegm.eval.metrics import true_accept_rate
from facegm.eval.rates import Rate, allowed_errors


def chance_of_at_most(count: int, trials: int, rate: float) -> float:
    return sum(comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(count + 1))


@pytest.mark.parametrize(("count", "trials"), [(0, 5), (1, 7), (3, 30), (20, 40), (40, 40)])
def test_the_interval_is_where_neither_tail_is_rarer_than_one_in_forty(count: int, trials: int) -> None:
    low, high = Rate(count=count, trials=trials).interval
    assert low == 0 if count == 0 else 1 - chance_of_at_most(count - 1, trials, low) == pytest.approx(0.025)
    assert high == 1 if count == trials else chance_of_at_most(count, trials, high) == pytest.approx(0.025)


def test_three_false_accepts_of_3000_mean_two_to_twenty_nine_in_ten_thousand() -> None:
    low, high = Rate(count=3, trials=3000).interval
    assert (round(low, 4), round(high, 4)) == (0.0002, 0.0029)


def test_no_trials_make_no_rate() -> None:
    assert Rate(count=0, trials=0).describe() == {"count": 0, "trials": 0, "rate": None, "interval": [0.0, 1.0]}
    assert str(Rate(count=0, trials=0)) == "not measurable (no trials)"
    assert str(Rate(count=1, trials=2)) == "50.00% (1.26% to 98.74%, 1 of 2)"


def test_allowed_errors_are_counted_exactly() -> None:
    for trials in (100, 1000, 3000):
        for thousandths in range(1001):
            assert allowed_errors(thousandths / 1000, trials) == thousandths * trials // 1000


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances with many ties, kinds, and which were acquired."""
    length = draw(st.integers(2, 40))
    columns = st.lists(st.booleans(), min_size=length, max_size=length)
    values = draw(st.lists(st.integers(0, 12), min_size=length, max_size=length))
    same = draw(columns.filter(lambda kinds: 0 < sum(kinds) < len(kinds)))
    return np.array(values, np.float64), np.array(same), np.array(draw(columns))


@given(pairs(), st.integers(0, 13))
def test_errors_of_a_threshold_are_counted(case: tuple[np.ndarray, np.ndarray, np.ndarray], threshold: int) -> None:
    distances, same, acquired = case
    count = dict.fromkeys(("fm", "fnm", "fta", "fa", "fr", "acquired same", "acquired different"), 0)
    for distance, one_person, is_acquired in zip(distances.tolist(), same.tolist(), acquired.tolist(), strict=True):
        matches = distance < threshold
        if is_acquired:
            count["acquired same" if one_person else "acquired different"] += 1
            count["fnm"] += one_person and not matches
            count["fm"] += not one_person and matches
        count["fta"] += not is_acquired
        count["fr"] += one_person and not (matches and is_acquired)
        count["fa"] += not one_person and matches and is_acquired
    found = operating_point(distances, same, float(threshold), acquired)
    matched, different = int(same.sum()), int((~same).sum())
    assert found.threshold == threshold
    assert found.false_match == Rate(count=count["fm"], trials=count["acquired different"])
    assert found.false_non_match == Rate(count=count["fnm"], trials=count["acquired same"])
    assert found.failure_to_acquire == Rate(count=count["fta"], trials=len(same))
    assert found.false_accept == Rate(count=count["fa"], trials=different)
    assert found.false_reject == Rate(count=count["fr"], trials=matched)


def test_rates_of_the_system_follow_from_those_of_the_comparison() -> None:
    rng = np.random.default_rng(0)
    distances, same, acquired = rng.normal(size=500), rng.random(500) < 0.5, rng.random(500) < 0.9
    found = operating_point(distances, same, 0.3, acquired)
    values = [rate.value for rate in (found.false_match, found.false_non_match, found.false_accept, found.false_reject)]
    fmr, fnmr, far, frr = (value or 0.0 for value in values)
    lost_same, lost_different = 1 - acquired[same].mean(), 1 - acquired[~same].mean()
    assert far == pytest.approx(fmr * (1 - lost_different))
    assert frr == pytest.approx(lost_same + fnmr * (1 - lost_same))


def test_each_pair_may_have_its_own_threshold_and_all_are_acquired_by_default() -> None:
    distances, same = np.array([1.0, 1.0, 2.0, 2.0]), np.array([True, False, True, False])
    found = operating_point(distances, same, np.array([1.5, 0.5, 1.5, 2.5]))
    assert found.describe() == {
        "threshold": None,
        "false_match": Rate(count=1, trials=2).describe(),
        "false_non_match": Rate(count=1, trials=2).describe(),
        "failure_to_acquire": Rate(count=0, trials=4).describe(),
        "false_accept": Rate(count=1, trials=2).describe(),
        "false_reject": Rate(count=1, trials=2).describe(),
    }


@given(pairs())
def test_det_points_are_the_errors_of_their_thresholds(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    distances, same, _ = case
    curve = det(distances, same)
    assert len(curve.threshold) == len(np.unique(distances)) + 1
    for fmr, fnmr, threshold in zip(curve.false_match_rate, curve.false_non_match_rate, curve.threshold, strict=True):
        assert fmr == pytest.approx(np.mean(distances[~same] < threshold))
        assert fnmr == pytest.approx(np.mean(distances[same] >= threshold))


def test_a_thinned_det_is_a_subset_that_leaves_no_gap() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(20_000) % 2 == 0
    whole = det(rng.normal(size=20_000) + np.where(same, 0, 2), same)
    thin = whole.thinned(0.05)
    assert 50 < len(thin.threshold) < 1000
    place = np.searchsorted(whole.threshold, thin.threshold)
    assert np.array_equal(whole.threshold[place], thin.threshold)
    assert np.array_equal(whole.false_match_rate[place], thin.false_match_rate)
    assert np.array_equal(whole.false_non_match_rate[place], thin.false_non_match_rate)
    assert min(thin.false_match_rate.min(), thin.false_non_match_rate.min()) > 0
    assert max(thin.false_match_rate.max(), thin.false_non_match_rate.max()) < 1
    # One error of each kind at the ends, and between neighbours that are kept no more is left out than a square holds.
    assert thin.false_match_rate[0] == pytest.approx(1e-4)
    assert thin.false_non_match_rate[-1] == pytest.approx(1e-4)
    for rate in (whole.false_match_rate, whole.false_non_match_rate):
        for start, end in pairwise(place.tolist()):
            if end > start + 1:
                deviates = [NormalDist().inv_cdf(float(rate[k])) for k in (start, end)]
                assert abs(deviates[1] - deviates[0]) <= 0.05


def test_perfectly_separated_pairs_have_no_det_to_draw() -> None:
    assert len(det(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False])).thinned().threshold) == 0


@pytest.mark.parametrize(
    ("different", "measurable", "rough"), [(99, False, True), (100, True, True), (999, True, True), (1000, True, False)]
)
def test_a_rate_that_too_few_pairs_carry_is_not_measurable(different: int, measurable: bool, rough: bool) -> None:
    rng = np.random.default_rng(0)
    distances, same = rng.normal(size=different + 50), np.arange(different + 50) < 50
    found = true_accept_rate(distances - 3 * same, same, 0.01)
    assert (found.rate is not None) == measurable == (found.describe()["interval"] is not None)
    assert found.is_rough == rough == found.describe()["is_rough"]
    assert ("not measurable" in str(found)) == (not measurable)
    assert ("rough" in str(found)) == (measurable and rough)


def test_a_true_accept_rate_says_all_that_is_behind_it() -> None:
    distances = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float64)
    same = np.array([True, True, False, True, False, False, False, True])
    found = true_accept_rate(distances, same, 0.25)
    assert found.threshold == 4.5
    assert found.true_accepted == Rate(count=3, trials=4)
    assert found.false_accepted == Rate(count=1, trials=4)
    assert found.describe() == {
        "false_accept_bound": 0.25,
        "rate": 0.75,
        "interval": [*Rate(count=3, trials=4).interval],
        "is_rough": True,
        "threshold": 4.5,
        "false_accepts": 1,
        "false_accept_interval": [*Rate(count=1, trials=4).interval],
    }
