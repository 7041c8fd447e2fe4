"""Simulated comparisons of recipes that are equally accurate, to see how often a test claims that they differ."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import ndtr, ndtri

from facegm.eval.comparison.people_sampling import PeopleSampling
from facegm.eval.comparison.recipe_test import LEVEL, compare_recipes

FOLDS, FOLD_PAIRS = 10, 600
"""As LFW's: half of a fold's pairs show one person."""
FOLD_PEOPLE = 430
"""People whom the pairs of a fold are drawn of; no other fold has them. LFW's pairs name 4,281."""
OF_PEOPLE = 0.3
"""Share of what makes a pair hard that it has from its people, and shares with their other pairs."""


@dataclass(frozen=True, kw_only=True)
class EqualRecipes:
    """Two recipes of one accuracy on people in general.

    A run's margin at a pair is normally distributed: a part that all networks share, one that those of the recipe
    share, and one of its own. Its right pairs are those of the largest margins, as many as its accuracy says.
    """

    spreads: tuple[float, float]
    """Standard deviation of each recipe's accuracy from seed to seed, a share of 1."""
    seeds: tuple[int, int]
    """Runs of each recipe."""
    accuracy: float = 0.87
    """On people in general; of small networks trained on CelebA291 on LFW."""
    shared: float = 0.65
    """Share of the margin's variance that all networks have in common. With 0.65, errors of two networks correlate by
    0.38, as the standard errors over the folds in `docs/results_celeba291.md` let expect."""
    of_recipe: float = 0.0
    """Share that only networks of the same recipe have in common: where it is not 0, recipes that are equally accurate
    on people in general differ on those of a set."""

    def draw(
        self, people: "SimulatedPeople"
    ) -> tuple[Bool[np.ndarray, "runs pairs"], Bool[np.ndarray, "others pairs"]]:
        """Which pairs the runs of either recipe judge rightly, on people who are drawn anew each time."""
        shared, own = people.difficulty(1), 1 - self.shared - self.of_recipe
        recipes = []
        for spread, seeds in zip(self.spreads, self.seeds, strict=True):
            of_recipe = np.sqrt(self.shared) * shared[0] + np.sqrt(self.of_recipe) * people.difficulty(1)[0]
            on_these = ndtr((ndtri(self.accuracy) + of_recipe) / np.sqrt(own)).mean()
            margins = of_recipe + np.sqrt(own) * people.difficulty(seeds)
            accuracies = on_these + spread * people.generator.normal(size=seeds)
            recipes.append(np.stack([_largest(*run) for run in zip(margins, accuracies, strict=True)]))
        return recipes[0], recipes[1]


def _largest(values: Float64[np.ndarray, " pairs"], share: float) -> Bool[np.ndarray, " pairs"]:
    wrong = len(values) - round(share * len(values))
    return np.asarray(values >= np.partition(values, wrong)[wrong])


class SimulatedPeople:
    """Pairs as LFW's, of people who make them easy or hard.

    Args:
        generator: what is drawn from.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        pairs = FOLDS * FOLD_PAIRS
        self.fold: Int[np.ndarray, " pairs"] = np.arange(pairs) // FOLD_PAIRS
        same = np.arange(pairs) % FOLD_PAIRS < FOLD_PAIRS // 2
        a = generator.integers(FOLD_PEOPLE, size=pairs)
        b = np.where(same, a, (a + generator.integers(1, FOLD_PEOPLE, size=pairs)) % FOLD_PEOPLE)
        self.people = a + FOLD_PEOPLE * self.fold, b + FOLD_PEOPLE * self.fold
        self.sampling = PeopleSampling(self.fold, self.people)

    def difficulty(self, rows: int) -> Float64[np.ndarray, "rows pairs"]:
        """Of each pair, of mean 0 and variance 1, in part from its people; the rows are independent."""
        a, b = self.people
        of_people = self.generator.normal(size=(rows, FOLDS * FOLD_PEOPLE))
        both = (of_people[:, a] + of_people[:, b]) / np.where(a == b, 2, np.sqrt(2))
        return np.asarray(np.sqrt(OF_PEOPLE) * both + np.sqrt(1 - OF_PEOPLE) * self.generator.normal(size=both.shape))


def rejection_rate(recipes: EqualRecipes, *, comparisons: int = 1000, seed: int = 0) -> float:
    """How often the test claims at 0.05 that recipes differ that do not.

    Args:
        recipes: of which runs are drawn.
        comparisons: how many; each of other networks and other people.
        seed: of all that is drawn.
    """
    people = SimulatedPeople(np.random.default_rng(seed))
    found = [compare_recipes(*recipes.draw(people), people.sampling) for _ in range(comparisons)]
    return float(np.mean([test.p <= LEVEL for test in found]))
