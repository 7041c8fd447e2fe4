"""Protects what simulations promise of `facegm compare` and of the protocol."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from facegm.eval.comparison.recipe_test import compare_recipes
from facegm.eval.comparison.simulated_biases import simulated_biases
from facegm.eval.comparison.simulation import FOLDS, EqualRecipes, SimulatedPeople, rejection_rate

SOFTMAX, GM, CENTER = 0.0060, 0.0012, 0.0008
"""Standard deviation of the accuracy over three seeds each, in `docs/results_celeba291.md`."""


def test_runs_have_the_accuracies_and_the_correlation_that_are_asked_for() -> None:
    people = SimulatedPeople(np.random.default_rng(0))
    recipes = EqualRecipes(spreads=(SOFTMAX, CENTER), seeds=(5, 5))
    drawn = [recipes.draw(people) for _ in range(100)]
    for number, spread in enumerate(recipes.spreads):
        accuracies = np.array([draw[number].mean(axis=1) for draw in drawn])
        assert np.sqrt(accuracies.var(axis=1, ddof=1).mean()) == pytest.approx(spread, rel=0.15)
        assert accuracies.mean() == pytest.approx(0.87, abs=0.002)
    correlation = np.mean([np.corrcoef(np.concatenate(draw)) for draw in drawn], axis=0)
    assert correlation[np.triu_indices(10, 1)] == pytest.approx(0.38, abs=0.02)


def test_pairs_are_laid_out_as_lfws() -> None:
    people = SimulatedPeople(np.random.default_rng(0))
    a, b = people.people
    assert np.bincount(people.fold).tolist() == [600] * FOLDS
    assert np.bincount(people.fold[a == b]).tolist() == [300] * FOLDS
    assert all(len(np.unique(people.fold[(a == one) | (b == one)])) == 1 for one in np.unique(a)[:50])
    difficulty = people.difficulty(200)
    assert difficulty.mean(axis=0) == pytest.approx(np.zeros(6000), abs=0.4)
    assert difficulty.var(axis=0).mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_true_null_is_rarely_rejected(seeds: int) -> None:
    rate = rejection_rate(EqualRecipes(spreads=(SOFTMAX, GM), seeds=(seeds, seeds)), comparisons=120)
    assert rate <= 0.12  # by chance above it in one of 1,000 such tests, were it 0.05


def test_people_are_not_forgotten() -> None:
    """By the accuracies alone, recipes that differ on these people but not on all are told apart far too often."""
    people = SimulatedPeople(np.random.default_rng(0))
    recipes = EqualRecipes(spreads=(CENTER, CENTER), seeds=(5, 5), of_recipe=0.1)
    tests = [compare_recipes(*recipes.draw(people), people.sampling) for _ in range(100)]
    assert np.mean([test.p <= 0.05 for test in tests]) <= 0.13
    assert np.mean([abs(test.difference) > 2.31 * test.standard_error_seeds for test in tests]) > 0.3
    assert np.std([test.difference for test in tests]) == pytest.approx(
        np.sqrt(np.mean([test.standard_error**2 for test in tests])), rel=0.25
    )


def test_a_test_over_folds_claims_too_much() -> None:
    """Protects the comparison that the simulation is for: seeds averaged, then a paired t-test over the folds."""
    people = SimulatedPeople(np.random.default_rng(0))
    recipes = EqualRecipes(spreads=(SOFTMAX, SOFTMAX), seeds=(3, 3))
    rejected = []
    for _ in range(200):
        first, second = (judged.mean(axis=0).reshape(FOLDS, -1).mean(axis=1) for judged in recipes.draw(people))
        rejected.append(ttest_1samp(first - second, 0).pvalue <= 0.05)
    assert np.mean(rejected) > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("of_recipe", [0.0, 0.05])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spreads", [(SOFTMAX, GM), (SOFTMAX, CENTER), (GM, CENTER)])
def test_a_true_null_is_rejected_in_3_to_7_percent(spreads: tuple[float, float], seeds: int, of_recipe: float) -> None:
    """Within the chance of 1,000 comparisons, half a percent."""
    recipes = EqualRecipes(spreads=spreads, seeds=(seeds, seeds), of_recipe=of_recipe)
    assert 0.025 <= rejection_rate(recipes) <= 0.075


def test_the_ways_around_the_protocol_gain_what_is_known_of_them() -> None:
    found = simulated_biases(sets=25)
    assert found.accuracy == pytest.approx(0.993, abs=0.001)
    assert found.one_threshold == pytest.approx(0.0007, abs=0.0005)
    assert found.threshold_a_fold == pytest.approx(0.0021, abs=0.0005)
    assert found.without_hardest == pytest.approx(0.0014, abs=0.0005)
    assert 0 < found.one_threshold < found.threshold_a_fold
