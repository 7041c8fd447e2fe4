"""Protects the tests of recipes and of networks: against scipy, naive loops, brute force and known tables."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_ind

from facegm.eval.people_sampling import PeopleSampling
from facegm.eval.recipe_test import RecipeTest, compare_networks, compare_recipes, holm

PAIRS = 400


def drawn(
    seed: int, people: int = 30, of_recipe: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of two recipes, folds of unequal size, and the two people of each pair; some may be easier for the first."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(people, size=(2, PAIRS))
    b = np.where(np.arange(PAIRS) % 2 == 0, a, b)
    fold = np.sort(rng.integers(5, size=PAIRS))
    easy = rng.normal(size=people)[a] + rng.normal(size=people)[b]
    margins = 1.5 + easy + rng.normal(size=(7, PAIRS)) + 0.2 * rng.normal(size=(7, 1))
    easier = of_recipe * rng.normal(size=people)
    margins[:3] += easier[a] + easier[b]
    return margins[:3] > 0, margins[3:] > 0, fold, a, b


def mean_over_folds(values: np.ndarray, fold: np.ndarray) -> float:
    return float(np.mean([values[fold == number].mean() for number in np.unique(fold)]))


def naive_variance(values: np.ndarray, fold: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Products of the deviations of any two pairs that share a person."""
    weights = np.array([1 / (len(np.unique(fold)) * (fold == own).sum()) for own in fold])
    deviations = weights * (values - mean_over_folds(values, fold))
    total = 0.0
    for i in range(len(a)):
        for j in range(len(a)):
            if {a[i], b[i]} & {a[j], b[j]}:
                total += deviations[i] * deviations[j]
    people = len(np.union1d(a, b))
    return total * people / (people - 1)


def test_the_variance_is_that_of_all_pairs_that_share_a_person() -> None:
    first, _, fold, a, b = drawn(0)
    sampling = PeopleSampling(fold, (a, b))
    values = first.astype(float)
    assert sampling.means(values) == pytest.approx([mean_over_folds(run, fold) for run in values])
    assert sampling.variances(values).sum(axis=1) == pytest.approx([naive_variance(run, fold, a, b) for run in values])
    assert sampling.units == 30


def test_without_people_the_pairs_are_independent() -> None:
    first, _, fold, _, _ = drawn(0)
    sampling = PeopleSampling(fold, None)
    alone = np.arange(PAIRS)
    expected = [naive_variance(run, fold, alone, alone) for run in first.astype(float)]
    assert sampling.variances(first.astype(float)).sum(axis=1) == pytest.approx(expected)


def test_the_variance_is_what_other_people_do_to_the_mean() -> None:
    """Of means over pairs of people who are drawn anew 2,000 times."""
    rng = np.random.default_rng(0)
    a = rng.integers(40, size=300)
    b = np.where(rng.random(300) < 0.5, a, rng.integers(40, size=300))
    sampling = PeopleSampling(np.arange(300) % 2, (a, b))
    means, variances = [], []
    for _ in range(2000):
        of_people = rng.normal(size=40)
        values = (of_people[a] + of_people[b] + rng.normal(size=300))[None]
        means.append(sampling.means(values)[0])
        variances.append(sampling.variances(values).sum())
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.15)
    assert np.mean(variances) > 2 * np.mean(2 * np.ones(300) + 1) / 300  # far more than that of independent pairs


def test_the_parts_are_those_of_a_naive_computation() -> None:
    first, second, fold, a, b = drawn(1, of_recipe=1)
    found = compare_recipes(first, second, PeopleSampling(fold, (a, b)))
    accuracies = [[mean_over_folds(run, fold) for run in runs.astype(float)] for runs in (first, second)]
    assert found.difference == pytest.approx(np.mean(accuracies[0]) - np.mean(accuracies[1]))
    assert found.spreads == pytest.approx([np.std(of_recipe, ddof=1) for of_recipe in accuracies])
    assert found.seeds == (3, 4)
    v = naive_variance(first.mean(axis=0) - second.mean(axis=0), fold, a, b)
    for runs in (first, second):
        noise = [naive_variance(run - runs.mean(axis=0), fold, a, b) for run in runs.astype(float)]
        v -= sum(noise) / (len(runs) - 1) / len(runs)
    assert found.standard_error_people == pytest.approx(v**0.5)
    seeds = np.var(accuracies[0], ddof=1) / 3 + np.var(accuracies[1], ddof=1) / 4
    assert found.standard_error_seeds == pytest.approx(seeds**0.5)
    assert found.standard_error == pytest.approx((v + seeds) ** 0.5)


def test_the_tail_is_that_of_seeds_and_people_by_their_shares() -> None:
    first, second, fold, a, b = drawn(1, of_recipe=1)
    found = compare_recipes(first, second, PeopleSampling(fold, (a, b)))
    of_means = np.square(found.spreads) / found.seeds
    freedom = of_means.sum() ** 2 / (of_means[0] ** 2 / 2 + of_means[1] ** 2 / 3)
    share = found.standard_error_people**2 / found.standard_error**2
    assert 0.1 < share < 0.9

    def tail(difference: float) -> float:
        statistic = abs(difference) / found.standard_error
        return float(2 * (1 - share) * t.sf(statistic, freedom) + 2 * share * t.sf(statistic, 29))

    assert found.p == pytest.approx(tail(found.difference))
    assert tail(found.interval[1] - found.difference) == pytest.approx(0.05)
    assert tail(found.interval[0] - found.difference) == pytest.approx(0.05)


def naive_contributions(values: np.ndarray, fold: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What each person adds to `naive_variance`: of each product an equal part for all people whom two pairs share."""
    weights = np.array([1 / (len(np.unique(fold)) * (fold == own).sum()) for own in fold])
    deviations = weights * (values - mean_over_folds(values, fold))
    people = np.union1d(a, b).tolist()
    added = dict.fromkeys(people, 0.0)
    for i in range(len(a)):
        for j in range(len(a)):
            shared = {int(a[i]), int(b[i])} & {int(a[j]), int(b[j])}
            for person in shared:
                added[person] += deviations[i] * deviations[j] / len(shared)
    return np.array([*added.values()]) * len(people) / (len(people) - 1)


def test_people_count_where_what_they_change_is_more_than_its_own_error() -> None:
    kept = []
    for seed in range(6):
        first, second, fold, a, b = drawn(seed, people=12, of_recipe=0.3)
        first, second, fold, a, b = first[:, :150], second[:, :150], fold[:150], a[:150], b[:150]
        added = naive_contributions(first.mean(axis=0) - second.mean(axis=0), fold, a, b)
        for runs in (first, second):
            noise = sum(naive_contributions(run - runs.mean(axis=0), fold, a, b) for run in runs.astype(float))
            added -= noise / (len(runs) - 1) / len(runs)
        v, error = added.sum(), np.std(added, ddof=1) * np.sqrt(len(added))
        kept.append(v > error)
        found = compare_recipes(first, second, PeopleSampling(fold, (a, b)))
        assert found.standard_error_people**2 == pytest.approx(v if v > error else 0)
    assert 0 < sum(kept) < 6


def test_it_is_welchs_test_where_people_change_nothing() -> None:
    checked = 0
    for seed in range(12):
        first, second, fold, a, b = drawn(seed)
        found = compare_recipes(first, second, PeopleSampling(fold, (a, b)))
        if found.standard_error_people == 0:
            accuracies = [[mean_over_folds(run, fold) for run in runs.astype(float)] for runs in (first, second)]
            expected = ttest_ind(*accuracies, equal_var=False)
            assert found.p == pytest.approx(expected.pvalue)
            assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
            checked += 1
    assert checked >= 3


def test_the_interval_holds_what_the_test_does_not_reject() -> None:
    for seed in range(20):
        first, second, fold, a, b = drawn(seed, people=8)
        found = compare_recipes(first, second, PeopleSampling(fold, (a, b)))
        assert (found.p <= 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
        assert np.mean(found.interval) == pytest.approx(found.difference)


def test_runs_that_all_agree_do_not_prove_anything_by_it() -> None:
    """No spread at all is that of accuracies which come in steps of a pair, not that of a certainty."""
    fold = np.arange(40) % 2
    first, second = np.ones((3, 40), bool), np.ones((3, 40), bool)
    sampling = PeopleSampling(fold, None)
    assert compare_recipes(first, second, sampling).p == 1
    second[:, 0] = False
    found = compare_recipes(first, second, sampling)
    assert 0 < found.p < 1
    assert np.isfinite(found.interval).all()


def of_spread(spread: float, *, seeds: int = 3, people: float = 0.0) -> RecipeTest:
    return RecipeTest(
        difference=0.01,
        interval=(0.0, 0.02),
        p=0.1,
        spreads=(spread, spread),
        seeds=(seeds, seeds),
        standard_error_people=people,
        units=4000,
    )


@pytest.mark.parametrize(("size", "expected"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_cohens_table(size: float, expected: int) -> None:
    """Cohen 1988, table 2.4.1: two-sided at 0.05, power 0.8, by the difference in standard deviations."""
    assert of_spread(0.006).seeds_needed(0.006 * size) == expected
    assert of_spread(0.006).seeds_needed(-0.006 * size) == expected


def test_no_number_of_seeds_makes_up_for_too_few_people() -> None:
    assert of_spread(0.001, people=0.003).seeds_needed(0.005) is None
    assert of_spread(0.001, people=0.001).seeds_needed(0.005) is not None
    assert of_spread(0.001).seeds_needed(0.05) == 2
    assert of_spread(1.0).seeds_needed(1e-6) is None


def test_seeds_needed_give_the_power_that_is_promised() -> None:
    """By simulated accuracies of recipes that differ, at the number that is asked for and at half of it."""
    rng = np.random.default_rng(0)
    needed = of_spread(0.004).seeds_needed(0.005)
    assert needed is not None
    for seeds, low, high in ((needed, 0.78, 0.88), (needed // 2, 0.2, 0.6)):
        first, second = rng.normal(0.005, 0.004, (4000, seeds)), rng.normal(0, 0.004, (4000, seeds))
        seen = ttest_ind(first, second, axis=1, equal_var=False).pvalue <= 0.05
        assert low < seen.mean() < high


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_mcnemars_test_is_exact(alone: int, other: int, both: int) -> None:
    first = np.repeat([True, False, True], [alone, other, both + 1])
    second = np.repeat([False, True, True], [alone, other, both + 1])
    found = compare_networks(first, second, PeopleSampling(np.zeros(len(first), int), None))
    split, most = alone + other, max(alone, other)
    tail = sum(comb(split, k) for k in range(most, split + 1)) / 2**split
    assert (found.first_alone, found.second_alone) == (alone, other)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert found.difference == pytest.approx((alone - other) / len(first))


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holms_p_is_that_of_closed_testing(p_values: list[float]) -> None:
    """A hypothesis falls where every set of hypotheses that it is in falls by Bonferroni's correction."""
    numbers = range(len(p_values))
    expected = [
        max(
            min(1, size * min(p_values[k] for k in chosen))
            for size in range(1, len(p_values) + 1)
            for chosen in combinations(numbers, size)
            if own in chosen
        )
        for own in numbers
    ]
    assert holm(p_values) == pytest.approx(expected)
