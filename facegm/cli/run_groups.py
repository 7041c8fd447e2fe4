"""Which verified runs are seeds of one recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facegm.config import config_of
from facegm.errors import UsageError
from facegm.eval.comparison import RunGroup
from facegm.eval.report_file import ScoredReport, find_report, read_report
from facegm.faces.config import FaceRunConfig
from facegm.identity import identity_of

Recipe = Mapping[str, Any]
"""A configuration without its seed and what changes no result, by dotted key."""

_SEED = "train.seed"


def groups_by_configuration(runs: Sequence[Path]) -> list[RunGroup]:
    """Put runs whose configurations differ in the seed alone into one group, named by what sets it apart from others.

    Args:
        runs: folders or reports.

    Raises:
        FacegmError: a report is missing or unusable.
        UsageError: one does not hold a configuration.
    """
    found: list[tuple[Recipe, list[tuple[int, ScoredReport]]]] = []
    for report in map(_read, runs):
        config = _config(report)
        if config is None:
            raise UsageError(f"{report.path}: holds no configuration to be grouped by; use --group NAME RUN...")
        recipe = _recipe(config)
        members = next((members for other, members in found if other == recipe), None)
        if members is None:
            members = []
            found.append((recipe, members))
        members.append((config.train.seed, report))
    names = _names([recipe for recipe, _ in found])
    return [
        RunGroup(
            name=name,
            reports=tuple(report for _, report in members),
            seeds=tuple(seed for seed, _ in members),
        )
        for name, (_, members) in zip(names, found, strict=True)
    ]


def groups_by_hand(given: Sequence[Sequence[str]]) -> list[RunGroup]:
    """Groups as a user has put them together.

    Args:
        given: of each group its name, then its folders or reports.

    Raises:
        FacegmError: a report is missing or unusable.
        UsageError: a group has no run, or a name comes twice.
    """
    names = [name for name, *_ in given]
    groups = []
    for name, *runs in given:
        if not runs:
            raise UsageError(f"--group {name}: no runs; give its name, then its run folders or reports")
        if names.count(name) > 1:
            raise UsageError(f"--group {name}: given twice; name all its runs at once")
        reports = [_read(Path(run)) for run in runs]
        configs = [_config(report) for report in reports]
        seeds = tuple(config.train.seed for config in configs if config is not None)
        groups.append(RunGroup(name=name, reports=tuple(reports), seeds=seeds if len(seeds) == len(reports) else None))
    return groups


def _read(run: Path) -> ScoredReport:
    return read_report(find_report(run))


def _config(report: ScoredReport) -> FaceRunConfig | None:
    return None if report.config is None else config_of(report.config, FaceRunConfig, str(report.path))


def _recipe(config: FaceRunConfig) -> Recipe:
    """What of a configuration the result depends on; also what may change when a run goes on, but makes another one."""
    recipe = identity_of(config)
    del recipe[_SEED]
    return recipe | {
        "data.store": str(config.data.store),
        "data.exclude_identities": list(config.data.exclude_identities),
        "train.init": None if config.train.init is None else str(config.train.init),
    }


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """What each recipe has that not all others have: of keys that all have, or, where these tell too little, of any."""
    every = list(dict.fromkeys(key for recipe in recipes for key in recipe))
    common = [key for key in every if all(key in recipe for recipe in recipes)]
    names: list[str] = []
    for keys in (common, every):
        differing = [key for key in keys if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)]
        names = [", ".join(f"{key}={recipe[key]}" for key in differing if key in recipe) for recipe in recipes]
        if len({*names}) == len(names):
            break
    return [name or "all runs" for name in names]
