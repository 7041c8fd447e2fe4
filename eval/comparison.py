"""Comparison of groups of verified runs: which claims about their recipes the seeds, the pairs and the people carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64

from facegm.errors import FacegmError, UsageError
from facegm.eval.pairs import Pairs
from facegm.eval.people_sampling import PeopleSampling
from facegm.eval.recipe_test import LEVEL, McNemarTest, RecipeTest, compare_networks, compare_recipes, holm
from facegm.eval.report_file import ScoredReport


@dataclass(frozen=True, eq=False, kw_only=True)
class RunGroup:
    """Runs of one recipe, which differ in their seeds alone."""

    name: str
    reports: tuple[ScoredReport, ...]
    """One a run."""
    seeds: tuple[int, ...] | None = None
    """The seed of each run; None where they are not known."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two groups, compared by one score."""

    score: str
    first: str
    """Name of the first group."""
    second: str
    """Name of the second."""
    difference: float
    """Mean accuracy of the first less that of the second, a share of 1."""
    test: RecipeTest | McNemarTest | None
    """Of recipes, where both groups have several seeds; of networks, where both are one run; none where one is."""
    corrected_p: float | None
    """The test's p, by Holm's correction over all tests that were made together."""

    @property
    def is_level(self) -> bool:
        """Whether nothing is claimed of the recipes, which differ by no more than chance, or were not tested."""
        return not isinstance(self.test, RecipeTest) or self.corrected_p is None or self.corrected_p > LEVEL


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Several groups, each compared with each other."""

    groups: tuple[RunGroup, ...]
    pairs: Pairs
    """Which all runs were verified on."""
    scores: tuple[str, ...]
    """What they are compared by, the primary one first."""
    accuracies: dict[tuple[str, str], Float64[np.ndarray, " runs"]]
    """By group and score, of each run: mean over the folds, a share of 1."""
    contrasts: tuple[Contrast, ...]
    """Score by score."""

    @property
    def people(self) -> int | None:
        """People that are in the pairs; None where they are not known."""
        people = self.pairs.people
        return None if people is None else len(np.unique(np.concatenate(people)))

    @property
    def tests(self) -> int:
        """Tests that were made together."""
        return sum(contrast.test is not None for contrast in self.contrasts)


def compare(groups: Sequence[RunGroup], *, score: str | None = None) -> Comparison:
    """Compare each two groups by each score, with Holm's correction over all the tests.

    Args:
        groups: two at least, of distinct names; all runs verified on the same pairs.
        score: the one score to compare by; None for the primary one and all others that the reports share.

    Raises:
        FacegmError: runs were verified on different pairs, or one of them is there twice.
        UsageError: a group is alone, or the reports do not share the score.
    """
    if len(groups) < 2:
        raise UsageError(f"all runs are of one group, {groups[0].name}; a comparison needs two")
    reports = [report for group in groups for report in group.reports]
    _require_same_pairs(reports)
    _require_distinct(groups)
    scores = _scores(reports, score)
    pairs = reports[0].pairs
    sampling = PeopleSampling(pairs.fold, pairs.people)

    right = {
        (group.name, one): np.stack([report.right[one] for report in group.reports])
        for one in scores
        for group in groups
    }
    accuracies = {key: sampling.means(judged.astype(np.float64)) for key, judged in right.items()}
    planned = [(one, *two) for one in scores for two in combinations([group.name for group in groups], 2)]
    tests = [_test(right[first, one], right[second, one], sampling) for one, first, second in planned]
    corrected = iter(holm([test.p for test in tests if test is not None]))
    return Comparison(
        groups=tuple(groups),
        pairs=pairs,
        scores=scores,
        accuracies=accuracies,
        contrasts=tuple(
            Contrast(
                score=one,
                first=first,
                second=second,
                difference=float(accuracies[first, one].mean() - accuracies[second, one].mean()),
                test=test,
                corrected_p=None if test is None else next(corrected),
            )
            for (one, first, second), test in zip(planned, tests, strict=True)
        ),
    )


def _test(
    first: Bool[np.ndarray, "runs pairs"], second: Bool[np.ndarray, "others pairs"], sampling: PeopleSampling
) -> RecipeTest | McNemarTest | None:
    if len(first) > 1 and len(second) > 1:
        return compare_recipes(first, second, sampling)
    return compare_networks(first[0], second[0], sampling) if len(first) == len(second) else None


def _require_same_pairs(reports: Sequence[ScoredReport]) -> None:
    first = reports[0]
    for other in reports[1:]:
        if other.pairs.digest != first.pairs.digest:
            raise FacegmError(
                f"{first.path} and {other.path}: verified on different pairs, or in different folds "
                f"({len(first.pairs)} and {len(other.pairs)} pairs); compare runs on one set"
            )


def _require_distinct(groups: Sequence[RunGroup]) -> None:
    """A network that counts twice makes the spread between seeds too small."""
    seen: dict[object, ScoredReport] = {}
    for report in (report for group in groups for report in group.reports):
        for key in (report.path.resolve(), report.distances_digest, report.model_digest):
            if key in seen:
                raise FacegmError(f"{seen[key].path} and {report.path}: the same network twice; name each run once")
            if key is not None:
                seen[key] = report
    for group in groups:
        of_seed: dict[int, ScoredReport] = {}
        for seed, report in zip(group.seeds or (), group.reports, strict=False):
            if seed in of_seed:
                raise FacegmError(
                    f"{of_seed[seed].path} and {report.path}: both of seed {seed} in group {group.name}; a repeat is "
                    "no further seed"
                )
            of_seed[seed] = report


def _scores(reports: Sequence[ScoredReport], score: str | None) -> tuple[str, ...]:
    shared = [name for name in reports[0].right if all(name in report.right for report in reports)]
    wanted = next(iter(reports[0].right)) if score is None else score
    if wanted not in shared:
        lacking = next(report for report in reports if wanted not in report.right)
        raise UsageError(
            f"{lacking.path}: no score {wanted!r}; the reports share "
            f"{', '.join(map(repr, shared)) or 'none'}; choose one by --score"
        )
    return tuple(shared) if score is None else (score,)
