"""A comparison in words: a table for the console, and every number as JSON and CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from facegm.data.report_files import csv_file, json_file, write_files
from facegm.eval.comparison.comparison import Comparison, Contrast
from facegm.eval.comparison.recipe_test import LEVEL, McNemarTest, RecipeTest

NUMBERS_FILE, TABLE_FILE = "comparison.json", "comparison.csv"


def write_comparison(folder: Path, comparison: Comparison, *, wanted: float) -> None:
    """Write `comparison.json` and `comparison.csv` into a folder, which is made if need be.

    Args:
        folder: files of these names in it are replaced.
        comparison: what was found.
        wanted: difference in accuracy, a share of 1, that seeds are counted for.
    """
    numbers = comparison_numbers(comparison, wanted=wanted)
    table = comparison_rows(comparison, wanted=wanted)
    write_files(folder, {NUMBERS_FILE: json_file(numbers), TABLE_FILE: csv_file(table)})


def comparison_rows(comparison: Comparison, *, wanted: float) -> list[dict[str, object]]:
    """A line for each score and two groups, as `comparison.csv` has it: differences in points."""
    return [_row(contrast, wanted) for contrast in comparison.contrasts]


def comparison_numbers(comparison: Comparison, *, wanted: float) -> dict[str, object]:
    """Everything that `comparison.json` holds: accuracies and their differences from 0 to 1."""
    people = comparison.people
    return {
        "pairs": len(comparison.pairs),
        "people": people,
        "tests": comparison.tests,
        "wanted_difference": wanted,
        "groups": [
            {
                "name": group.name,
                "runs": [str(report.path) for report in group.reports],
                "seeds": None if group.seeds is None else list(group.seeds),
                "accuracies": {score: comparison.accuracies[group.name, score].tolist() for score in comparison.scores},
            }
            for group in comparison.groups
        ],
        "contrasts": [
            {
                "score": contrast.score,
                "first": contrast.first,
                "second": contrast.second,
                "difference": contrast.difference,
                "corrected_p": contrast.corrected_p,
                "is_level": contrast.is_level,
                "recipes": _recipe_numbers(contrast, wanted),
                "networks": asdict(contrast.test) if isinstance(contrast.test, McNemarTest) else None,
            }
            for contrast in comparison.contrasts
        ],
    }


def _recipe_numbers(contrast: Contrast, wanted: float) -> dict[str, object] | None:
    test = contrast.test
    if not isinstance(test, RecipeTest):
        return None
    return asdict(test) | {
        "standard_error": test.standard_error,
        "standard_error_seeds": test.standard_error_seeds,
        "seeds_for_wanted": test.seeds_needed(wanted),
        "seeds_for_observed": _seeds_for_observed(test),
    }


def _seeds_for_observed(test: RecipeTest) -> int | None:
    return test.seeds_needed(test.difference) if test.difference else None


def _row(contrast: Contrast, wanted: float) -> dict[str, object]:
    test = contrast.test
    recipes = test if isinstance(test, RecipeTest) else None
    low, high = (None, None) if recipes is None else (f"{100 * end:.3f}" for end in recipes.interval)
    return {
        "score": contrast.score,
        "first": contrast.first,
        "second": contrast.second,
        "points": f"{100 * contrast.difference:.3f}",
        "low": low,
        "high": high,
        "test": _kind(contrast),
        "p": None if test is None else f"{test.p:.3g}",
        "holm_p": None if contrast.corrected_p is None else f"{contrast.corrected_p:.3g}",
        "seeds_for_wanted": None if recipes is None else recipes.seeds_needed(wanted),
        "seeds_for_observed": None if recipes is None else _seeds_for_observed(recipes),
        "verdict": _verdict(contrast),
    }


def _kind(contrast: Contrast) -> str:
    if isinstance(contrast.test, RecipeTest):
        return "recipes"
    return "none" if contrast.test is None else "networks"


def _verdict(contrast: Contrast) -> str:
    """What may be claimed."""
    if isinstance(contrast.test, RecipeTest):
        return "level" if contrast.is_level else ("first better" if contrast.difference > 0 else "second better")
    return "no claim: one seed"


def comparison_text(comparison: Comparison, *, wanted: float) -> str:
    """The comparison for a console.

    Args:
        comparison: what was found.
        wanted: difference in accuracy, a share of 1, that seeds are counted for.
    """
    people = "people not known" if comparison.people is None else f"{comparison.people:,} people"
    parts = [
        f"{len(comparison.pairs):,} pairs, {people}. Accuracy in percent, mean and standard deviation over the seeds:",
        _aligned([["group", "runs", *comparison.scores], *_group_rows(comparison)]),
    ]
    recipes = [contrast for contrast in comparison.contrasts if isinstance(contrast.test, RecipeTest)]
    networks = [contrast for contrast in comparison.contrasts if isinstance(contrast.test, McNemarTest)]
    untested = [contrast for contrast in comparison.contrasts if contrast.test is None]
    if recipes:
        head = ["score", "first - second", "points", "95 % interval", "p", f"Holm, {comparison.tests} tests", "verdict"]
        head += [f"seeds for {100 * wanted:g}", "for this one"]
        parts += [
            "Recipes, for other seeds and other people:",
            _aligned([head, *(_recipe_row(c, wanted) for c in recipes)]),
        ]
    if networks:
        head = ["score", "first - second", "points", "first alone right", "second alone", "p"]
        head += [f"Holm, {comparison.tests} tests"]
        parts += [
            "Single networks, on these very pairs (McNemar's exact test):",
            _aligned([head, *map(_network_row, networks)]),
            "One seed each: this says nothing of the recipes, which need several seeds each.",
        ]
    if untested:
        names = ", ".join(dict.fromkeys(f"{c.first} and {c.second}" for c in untested))
        parts.append(f"Not tested, since one of the two is a single run, and one seed carries no claim: {names}.")
    if recipes:
        parts.append(
            f"level: Holm's p above {LEVEL:g}. Seeds: of each recipe, for 80 % power in a single test, if the spreads "
            "above are right, which few seeds tell roughly; - where no number of seeds does, but more people would."
        )
    return "\n\n".join(parts)


def _group_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for group in comparison.groups:
        found = [100 * comparison.accuracies[group.name, score] for score in comparison.scores]
        texts = [f"{one.mean():.2f}" + (f" ± {np.std(one, ddof=1):.2f}" if len(one) > 1 else "") for one in found]
        rows.append([group.name, str(len(group.reports)), *texts])
    return rows


def _recipe_row(contrast: Contrast, wanted: float) -> list[str]:
    test = contrast.test
    assert isinstance(test, RecipeTest)
    low, high = test.interval
    seeds = [test.seeds_needed(wanted), _seeds_for_observed(test)]
    return [
        contrast.score,
        f"{contrast.first} - {contrast.second}",
        f"{100 * test.difference:+.2f}",
        f"{100 * low:+.2f} to {100 * high:+.2f}",
        f"{test.p:.2g}",
        f"{contrast.corrected_p:.2g}",
        _verdict(contrast),
        *("-" if number is None else str(number) for number in seeds),
    ]


def _network_row(contrast: Contrast) -> list[str]:
    test = contrast.test
    assert isinstance(test, McNemarTest)
    counts = str(test.first_alone), str(test.second_alone)
    names = f"{contrast.first} - {contrast.second}"
    return [
        contrast.score,
        names,
        f"{100 * test.difference:+.2f}",
        *counts,
        f"{test.p:.2g}",
        f"{contrast.corrected_p:.2g}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
