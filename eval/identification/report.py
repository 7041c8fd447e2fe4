"""Writes what identification has found: `identification.json` with every number, a table of them, a page."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facegm.data.charts import COLORS, INK, drawn, svg
from facegm.data.names import escaped
from facegm.data.pages import render_page
from facegm.data.report_files import csv_file, json_file, write_files
from facegm.eval.identification.identification import OpenSetRate, Search
from facegm.eval.identification.identify import FALSE_POSITIVE_BOUNDS, RANKS, IdentificationReport
from facegm.eval.rates import Rate

JSON_FILE, TABLE_FILE, PAGE_FILE = "identification.json", "identification.csv", "identification.html"
MOST_RANKS, _CURVE_POINTS = 100, 50
"""Of the curves."""


def write_report(folder: Path, report: IdentificationReport) -> None:
    """Write numbers, table and page; each file appears whole or not at all.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    page = render_page("facegm.eval.identification/identification.html.jinja", **numbers, chart=_charts(report.splits))
    write_files(folder, {JSON_FILE: json_file(numbers), TABLE_FILE: csv_file(_rows(report)), PAGE_FILE: page.encode()})


def report_numbers(report: IdentificationReport) -> dict[str, Any]:
    """Everything that `identification.json` holds; rates from 0 to 1, distances as 1 - cosine."""
    return {
        "schema": 1,
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "settings": asdict(report.settings),
        "images": report.images,
        "people": report.people,
        "closed_set": [
            {"rank": rank, "over_splits": None if spread is None else asdict(spread)}
            for rank, spread in report.closed_set.items()
        ],
        "open_set": [
            {"false_positive_bound": bound, "over_splits": None if spread is None else asdict(spread)}
            for bound, spread in report.open_set.items()
        ],
        "splits": [
            {"seed": report.settings.seed + number, **_split_numbers(split)}
            for number, split in enumerate(report.splits)
        ],
    }


def _split_numbers(split: Search) -> dict[str, Any]:
    return {
        "templates": split.templates,
        "mated_probes": len(split.rank),
        "non_mated_probes": len(split.nearest),
        "closed_set": [{"rank": rank, **split.closed_set(rank).describe()} for rank in RANKS],
        "open_set": [split.open_set(bound).describe() for bound in FALSE_POSITIVE_BOUNDS if len(split.nearest)],
    }


def _rows(report: IdentificationReport) -> Iterator[dict[str, object]]:
    """A row for each rate of each split; those that are not measurable have none."""
    for number, split in enumerate(report.splits):
        seed = report.settings.seed + number
        for rank in RANKS:
            yield _row(seed, "closed-set", rank, split.closed_set(rank))
        for bound in FALSE_POSITIVE_BOUNDS if len(split.nearest) else ():
            found = split.open_set(bound)
            if found.allowed:
                yield _row(seed, "open-set", 1, found.identified, found)


def _row(seed: int, measure: str, rank: int, rate: Rate, open_set: OpenSetRate | None = None) -> dict[str, object]:
    return {
        "seed": seed,
        "measure": measure,
        "rank": rank,
        "false_positive_bound": "" if open_set is None else open_set.false_positive_bound,
        "rate": rate.value,
        "low": rate.interval[0],
        "high": rate.interval[1],
        "identified": rate.count,
        "mated_probes": rate.trials,
        "threshold": "" if open_set is None else open_set.threshold,
        "false_positives": "" if open_set is None else open_set.false_positives.count,
        "non_mated_probes": "" if open_set is None else open_set.false_positives.trials,
    }


def _charts(splits: Sequence[Search]) -> str:
    """Rank and FPIR against the identified share, of each split and on average."""
    fewest_templates = min(split.templates for split in splits)
    ranks = np.arange(1, min(fewest_templates, MOST_RANKS) + 1)
    curves: list[tuple[str, np.ndarray, np.ndarray]] = [
        ("rank", ranks, np.array([split.cumulative_match(len(ranks)) for split in splits]))
    ]
    fewest_probes = min(len(split.nearest) for split in splits)
    if fewest_probes:
        bounds = np.geomspace(min(1 / fewest_probes, 0.5), 0.99, _CURVE_POINTS)
        rates = [[split.open_set(bound).identified.value for bound in bounds.tolist()] for split in splits]
        curves.append(("false positive identification rate, the mate ranking first", bounds, np.array(rates, float)))
    with drawn(9, 3.6) as figure:
        for axes, (label, x, of_splits) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            for y in of_splits:
                axes.step(x, y, where="post", color=COLORS[0], alpha=0.3, linewidth=0.8)
            axes.step(x, np.mean(of_splits, axis=0), where="post", color=COLORS[0])
            axes.set(xscale="log", xlabel=label, ylabel="identified share of mated probes", ylim=(0, 1.02))
            axes.grid(color=INK, alpha=0.12)
        return svg(figure, "Identified share of mated probes by rank, and by false positive identification rate")
