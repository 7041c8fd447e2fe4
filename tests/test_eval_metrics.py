from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from facegm.eval.metrics import accuracy_at, best_threshold, roc, true_accept_rate


def labelled(distances: list[float], same: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(distances, dtype=np.float64), np.array(same, dtype=bool)


@st.composite
def scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Distances with many ties, at least one pair of each kind, at any scale."""
    length = draw(st.integers(2, 40))
    values = draw(st.lists(st.integers(0, 12), min_size=length, max_size=length))
    same = draw(st.lists(st.booleans(), min_size=length, max_size=length).filter(lambda s: 0 < sum(s) < len(s)))
    return np.array(values) * draw(st.sampled_from([1.0, 1e-6, 1e-300, 1e6])), np.array(same)


def naive_accuracy(threshold: float, distances: np.ndarray, same: np.ndarray) -> float:
    right = 0
    for distance, is_same in zip(distances.tolist(), same.tolist(), strict=True):
        right += (distance < threshold) == is_same
    return right / len(same)


def naive_best_thresholds(distances: np.ndarray, same: np.ndarray) -> list[tuple[float, float]]:
    """Every gap (low, high] whose thresholds reach the highest accuracy, found by trying all of them."""
    edges = [-np.inf, *sorted(set(distances.tolist())), np.inf]
    gaps = list(pairwise(edges))
    # a threshold equal to the upper edge accepts what lies below the gap; the last gap has any number above the largest
    accuracies = [naive_accuracy(high, distances, same) for _, high in gaps]
    return [gap for gap, accuracy in zip(gaps, accuracies, strict=True) if accuracy == max(accuracies)]


@given(scores())
def test_threshold_is_in_the_middle_one_of_the_best_gaps(case: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = case
    best = naive_best_thresholds(distances, same)
    low, high = best[(len(best) - 1) // 2]
    threshold = best_threshold(distances, same)
    assert low < threshold <= high
    if np.isfinite(low) and np.isfinite(high):
        assert threshold == pytest.approx((low + high) / 2, rel=1e-12)
    assert accuracy_at(threshold, distances, same) == naive_accuracy(high, distances, same)


@pytest.mark.parametrize(
    ("distances", "same", "threshold"),
    [
        ([1, 2, 4, 5], [1, 1, 0, 0], 3.0),
        ([5, 1, 4, 2], [0, 1, 0, 1], 3.0),
        ([1, 2, 3, 4, 5, 6], [1, 0, 1, 0, 1, 0], 3.5),  # best at 1.5, 3.5 and 5.5: the middle one
        ([1, 2, 3, 4], [1, 0, 1, 0], 1.5),  # best at 1.5 and 3.5: the lower of the middle two
        ([2, 2, 2, 3], [1, 1, 0, 0], 2.5),  # equal distances stay together
        ([2, 2, 3], [0, 0, 0], 2.0),  # nothing accepted
        ([2, 3], [1, 1], np.nextafter(3, 4)),  # everything accepted
    ],
)
def test_threshold_rule_on_small_cases(distances: list[float], same: list[int], threshold: float) -> None:
    assert best_threshold(*labelled(distances, same)) == threshold


def test_adjacent_floats_are_still_separated() -> None:
    for low in (1.0, np.nextafter(1, 2), 5e-324):
        distances, same = labelled([low, np.nextafter(low, 2)], [1, 0])
        assert accuracy_at(best_threshold(distances, same), distances, same) == 1


def test_a_distance_equal_to_the_threshold_is_rejected() -> None:
    distances, same = labelled([1, 2], [1, 1])
    assert accuracy_at(2.0, distances, same) == 0.5
    assert accuracy_at(np.array([1.5, 2.5]), distances, same) == 1


@given(scores())
def test_roc_points_are_the_rates_at_every_split(case: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = case
    curve = roc(distances, same)
    splits = [-np.inf, *sorted(set(distances.tolist()))]
    assert curve.false_accept_rate == pytest.approx([np.mean(distances[~same] <= split) for split in splits])
    assert curve.true_accept_rate == pytest.approx([np.mean(distances[same] <= split) for split in splits])
    for threshold, tar in zip(curve.threshold, curve.true_accept_rate, strict=True):
        assert np.mean(distances[same] < threshold) == pytest.approx(tar)


@given(scores())
def test_area_is_the_chance_of_ranking_a_same_pair_first(case: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = case
    wins = [(s < d) + (s == d) / 2 for s in distances[same] for d in distances[~same]]
    area = roc(distances, same).area
    assert area == pytest.approx(np.mean(wins))
    assert area == pytest.approx(roc_auc_score(same, -distances))


def test_equal_error_rate_is_interpolated() -> None:
    assert roc(*labelled([1, 2, 3, 4], [1, 1, 0, 0])).equal_error_rate == 0
    assert roc(*labelled([1, 2, 3, 4], [0, 0, 1, 1])).equal_error_rate == 1
    assert roc(*labelled([1, 1], [0, 1])).equal_error_rate == 0.5
    # (FAR, FRR) goes from (0, 1/3) to (1/2, 1/3) in one straight line, which crosses FAR = FRR at 1/3
    assert roc(*labelled([1, 2, 3, 4, 5], [1, 1, 0, 1, 0])).equal_error_rate == pytest.approx(1 / 3)


@given(scores())
def test_equal_error_rate_is_the_root_on_scikit_learns_curve(case: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = case
    far, tar, _ = roc_curve(same, -distances)
    expected = brentq(lambda rate: 1 - rate - np.interp(rate, far, tar), 0, 1)
    assert roc(distances, same).equal_error_rate == pytest.approx(expected, abs=1e-9)


def test_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.4
    distances = rng.normal(size=200) + np.where(same, 0, 1)
    threshold = best_threshold(distances, same)
    assert accuracy_at(threshold, distances, same) == pytest.approx(accuracy_score(same, distances < threshold))
    highest = max(accuracy_score(same, distances < other) for other in [*distances, np.inf])
    assert accuracy_at(threshold, distances, same) == pytest.approx(highest)


@given(scores())
def test_equal_error_rate_lies_between_the_rates_of_the_closest_splits(case: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = case
    curve = roc(distances, same)
    low, high = 0.0, 1.0
    for far, tar in zip(curve.false_accept_rate, curve.true_accept_rate, strict=True):
        low, high = (max(low, min(far, 1 - tar)), min(high, max(far, 1 - tar)))
    assert low - 1e-12 <= curve.equal_error_rate <= high + 1e-12


@given(scores(), st.sampled_from([0.5, 0.1, 0.01, 0.001, 0.29, 0.07]))
def test_true_accept_rate_equals_a_naive_search(case: tuple[np.ndarray, np.ndarray], bound: float) -> None:
    distances, same = case
    different = int((~same).sum())
    expected = (0, 0.0)
    for split in sorted(set(distances.tolist())):
        false_accepts = sum(d <= split for d in distances[~same].tolist())
        if false_accepts * 1000 <= round(bound * 1000) * different:  # in whole numbers
            expected = (false_accepts, float(np.mean(distances[same] <= split)))
    found = true_accept_rate(distances, same, bound)
    assert found.false_accepts == expected[0]
    assert found.true_accepted.value == pytest.approx(expected[1])
    assert found.rate == (found.true_accepted.value if round(bound * 1000) * different >= 1000 else None)
    assert found.false_accept_bound == bound


@pytest.mark.parametrize(("bound", "count"), [(1e-1, 300), (1e-2, 30), (1e-3, 3)])
def test_lfws_false_accepts_are_300_30_and_3(bound: float, count: int) -> None:
    distances = np.random.default_rng(0).normal(size=6000)
    same = np.arange(6000) % 2 == 0
    found = true_accept_rate(distances, same, bound)
    assert found.false_accepts == count
    next_false_accept = np.sort(distances[~same])[count]
    assert found.rate == np.mean(distances[same] < next_false_accept)


def test_bounds_that_round_badly_allow_the_exact_number() -> None:
    distances = np.arange(200, dtype=np.float64)
    same = np.arange(200) >= 100
    for percent in range(1, 100):
        assert true_accept_rate(distances, same, percent / 100).false_accepts == percent
