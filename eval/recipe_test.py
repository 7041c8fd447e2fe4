"""Tests of two training recipes, of which each run is one draw, and of two single networks.

The claim is about recipes, and about people like those of the set: another seed would have given another network, and
other people other pairs. Both are random here, and crossed, as readers and cases are in studies of diagnostic images
(multi-reader multi-case analysis: Obuchowski and Rockette, 1995; Gallas, 2006; Hillis, 2007):

    variance of the difference = s1^2 / n1 + s2^2 / n2 + v

s^2 is the variance of a recipe's accuracies from seed to seed, n its seeds, and v what other people would change of
the difference between the recipes. v is found from the mean difference at each pair, less the part that is but the
seeds' own noise at that pair, which s^2 has in it. It is left out where it is smaller than its own standard error; the
test is then Welch's over the seeds. Else the tail of the statistic is that of Welch's t for the seeds and of a t of
many degrees of freedom for the people, weighted by their shares of the variance, as Cochran and Cox (1957) weight
critical values. `facegm.eval.simulation` shows how often it rejects what is true.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import brentq
from scipy.stats import binomtest, nct, t

from facegm.eval.people_sampling import PeopleSampling

LEVEL = 0.05
"""Of every test, and of intervals 1 less it."""
POWER = 0.8
"""Chance to see a difference that is there, for which seeds are counted."""
MAX_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class RecipeTest:
    """How two recipes differ in accuracy; accuracies and their differences are shares of 1."""

    difference: float
    """Mean accuracy of the first recipe's runs less that of the second's."""
    interval: tuple[float, float]
    """95 % interval of the difference between the recipes, for other seeds and other people."""
    p: float
    """Of a difference at least as far from 0, were the recipes equally accurate; two-sided."""
    spreads: tuple[float, float]
    """Standard deviation of each recipe's accuracies over its seeds."""
    seeds: tuple[int, int]
    """Runs of each recipe."""
    standard_error_people: float
    """The part of the difference's standard error that more seeds do not reduce."""
    units: int
    """People of the pairs; pairs, where people are not known."""

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        return float(np.hypot(self.standard_error_seeds, self.standard_error_people))

    @property
    def standard_error_seeds(self) -> float:
        """The part of the standard error that is due to the seeds."""
        return float(np.sqrt(sum(s**2 / n for s, n in zip(self.spreads, self.seeds, strict=True))))

    def seeds_needed(self, difference: float) -> int | None:
        """Seeds of each recipe with which a test alone sees a difference in 80 % of cases, if the spreads are right.

        Args:
            difference: between the recipes, a share of 1.

        Returns:
            2 to 1,000; None where no such number does, since too few people are in the pairs.
        """

        def power(seeds: int) -> float:
            of_means = np.square(self.spreads) / seeds
            tails = _Tails(of_means, np.array([seeds - 1] * 2), self.standard_error_people**2, self.units - 1)
            return tails.power(abs(difference))

        choices = range(2, MAX_SEEDS + 1)
        found = bisect_left(choices, POWER, key=power)
        return choices[found] if found < len(choices) else None


class _Tails:
    """How a difference is distributed about the true one.

    Args:
        of_means: variance of each recipe's mean that is due to its seeds.
        freedoms: its degrees of freedom.
        people: variance of the difference that is due to the people.
        people_freedom: its degrees of freedom.
    """

    def __init__(
        self, of_means: Float64[np.ndarray, "2"], freedoms: np.ndarray, people: float, people_freedom: int
    ) -> None:
        seeds = float(of_means.sum())
        self.error = float(np.sqrt(seeds + people))
        freedom = seeds**2 / float((of_means**2 / freedoms).sum())  # Welch's
        self._parts = ((seeds / self.error**2, freedom), (people / self.error**2, float(people_freedom)))

    def p(self, difference: float) -> float:
        """Of a difference as far from the true one, to either side."""
        return 2 * self._beyond(abs(difference) / self.error)

    def critical(self) -> float:
        """The difference from the true one that is exceeded in 5 % of cases."""
        ends = [float(t.isf(LEVEL / 2, freedom)) for share, freedom in self._parts if share]
        low, high = 0.99 * min(ends), 1.01 * max(ends)
        return self.error * float(brentq(lambda statistic: self._beyond(statistic) - LEVEL / 2, low, high))

    def power(self, difference: float) -> float:
        """How often a true difference is seen."""
        critical = self.critical() / self.error
        shift = min(difference / self.error, 30.0)  # beyond which all is seen
        seen = [
            share * (nct.sf(critical, f, shift) + nct.cdf(-critical, f, shift)) for share, f in self._parts if share
        ]
        return float(sum(seen))

    def _beyond(self, statistic: float) -> float:
        return float(sum(share * t.sf(statistic, freedom) for share, freedom in self._parts))


def compare_recipes(
    first: Bool[np.ndarray, "runs pairs"], second: Bool[np.ndarray, "others pairs"], sampling: PeopleSampling
) -> RecipeTest:
    """Test whether two recipes are equally accurate.

    Args:
        first: which pairs each run of the first recipe judges rightly; at least two runs.
        second: likewise of the second recipe, on the same pairs.
        sampling: of these pairs.
    """
    recipes = first.astype(np.float64), second.astype(np.float64)
    accuracies = [sampling.means(runs) for runs in recipes]
    seeds = len(first), len(second)
    # Accuracies come in steps of a pair: runs that agree may still differ by the rounding to one.
    rounding = float(sampling.weights.max()) ** 2 / 12
    squares = np.array([max(float(found.var(ddof=1)), rounding) for found in accuracies])
    people = _people_variance(*recipes, sampling)
    tails = _Tails(squares / seeds, np.array(seeds) - 1, people, sampling.units - 1)
    difference, reach = float(accuracies[0].mean() - accuracies[1].mean()), tails.critical()
    return RecipeTest(
        difference=difference,
        interval=(difference - reach, difference + reach),
        p=tails.p(difference),
        spreads=(float(np.sqrt(squares[0])), float(np.sqrt(squares[1]))),
        seeds=seeds,
        standard_error_people=float(np.sqrt(people)),
        units=sampling.units,
    )


def _people_variance(
    first: Float64[np.ndarray, "runs pairs"], second: Float64[np.ndarray, "others pairs"], sampling: PeopleSampling
) -> float:
    """What other people would change of the difference between the recipes, where that is more than its own error."""
    added = sampling.variances((first.mean(axis=0) - second.mean(axis=0))[None])[0]
    for runs in (first, second):  # less the noise of single seeds
        added = added - sampling.variances(runs - runs.mean(axis=0)).sum(axis=0) / (len(runs) - 1) / len(runs)
    error = float(added.std(ddof=1) * np.sqrt(len(added)))
    return float(added.sum()) if added.sum() > error else 0.0


@dataclass(frozen=True, kw_only=True)
class McNemarTest:
    """How two networks differ on these very pairs, by McNemar's exact test; it says nothing of their recipes."""

    difference: float
    """Accuracy of the first less that of the second."""
    first_alone: int
    """Pairs that only the first judges rightly."""
    second_alone: int
    """Pairs that only the second judges rightly."""
    p: float
    """Of so unequal a split of the pairs on which they differ, were both as often right; two-sided."""


def compare_networks(
    first: Bool[np.ndarray, " pairs"], second: Bool[np.ndarray, " pairs"], sampling: PeopleSampling
) -> McNemarTest:
    """Test whether two networks are equally accurate, the pairs taken for independent.

    Args:
        first: which pairs the first judges rightly.
        second: likewise the second.
        sampling: of these pairs.
    """
    first_alone, second_alone = int((first & ~second).sum()), int((second & ~first).sum())
    split = first_alone + second_alone
    difference = sampling.means(np.stack([first, second]).astype(np.float64))
    return McNemarTest(
        difference=float(difference[0] - difference[1]),
        first_alone=first_alone,
        second_alone=second_alone,
        p=float(binomtest(first_alone, split).pvalue) if split else 1.0,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p values that may be compared with the level whatever was tested besides."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted
