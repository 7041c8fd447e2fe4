"""Writes a report on quality scores: numbers as JSON, two tables as CSV, and a page."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facegm.data.names import escaped, printable
from facegm.data.pages import jpeg_uri, render_page
from facegm.data.report_files import csv_file, json_file, write_files
from facegm.eval.quality.charts import discard_chart
from facegm.eval.quality.degradations import DEGRADED_SHARE, STRENGTHS, UNITS
from facegm.eval.quality.discard import LIMITS
from facegm.eval.quality.quality import AS_THEY_ARE, HALF_DEGRADED, QualityReport
from facegm.eval.quality.scores import MEANINGS
from facegm.eval.quality.trial import DiscardTrial

JSON_FILE, TABLE_FILE, FACES_FILE, PAGE_FILE = "quality.json", "quality.csv", "faces.csv", "quality.html"
_SHARES = np.linspace(0, 0.5, 51)
"""At which the JSON file has the curves."""


def write_report(folder: Path, report: QualityReport) -> None:
    """Write all files into a folder; each appears whole or not at all.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    files = {
        JSON_FILE: json_file(numbers),
        TABLE_FILE: csv_file(_rows(report)),
        FACES_FILE: csv_file(_face_rows(report)),
        PAGE_FILE: _html(report, numbers).encode(),
    }
    write_files(folder, files)


def summary(report: QualityReport) -> str:
    """A few lines of plain text: the first threshold, and the smallest share discarded."""
    lines = []
    for trial in report.trials_at(report.trials[0].point.name):
        if trial.condition in (AS_THEY_ARE, HALF_DEGRADED):
            lines.append(
                f"faces {trial.condition}: {trial.rejected:,} of {trial.pairs:,} pairs of one person rejected at "
                f"{trial.point.name}; area under error versus discard to {LIMITS[0]:.0%}, of 1 where it helps nothing"
            )
            for name, areas in trial.areas.items():
                lines += [
                    f"  {name:<20} {one.area:.3f} (95 % interval {one.interval[0]:.3f} to {one.interval[1]:.3f}; "
                    f"ideal {one.ideal:.3f}): {one.verdict}"
                    for one in areas[:1]
                ]
    return "\n".join(lines)


def report_numbers(report: QualityReport) -> dict[str, Any]:
    """Everything that `quality.json` holds: rates and shares from 0 to 1, L2 distances of unit-length embeddings."""
    return {
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "scores": {name: MEANINGS[name] for name in report.scores},
        "degradations": {
            kind: {"unit": UNITS[kind], "strengths": list(strengths)} for kind, strengths in STRENGTHS.items()
        },
        "degraded_share": DEGRADED_SHARE,
        "trials": [_trial_numbers(trial) for trial in report.trials],
        "severity_correlations": {name: dict(by_kind) for name, by_kind in report.correlations.items()},
        "ladder_images": report.ladder_images,
    }


def _trial_numbers(trial: DiscardTrial) -> dict[str, Any]:
    return {
        "condition": trial.condition,
        "point": asdict(trial.point),
        "false_match_rate": trial.false_match_rate,
        "pairs": trial.pairs,
        "rejected": trial.rejected,
        "false_non_match_rate": trial.false_non_match_rate,
        "areas": {
            name: [asdict(one) | {"verdict": one.verdict} for one in areas] for name, areas in trial.areas.items()
        },
        "curves": {
            "discarded": _SHARES.tolist(),
            "ideal": trial.ideal.at(_SHARES).tolist(),
            **{name: curve.at(_SHARES).tolist() for name, curve in trial.curves.items()},
        },
    }


# ------------------------------------------------------------------------------------------------- tables


def _rows(report: QualityReport) -> Iterator[dict[str, Any]]:
    """A row for each condition, threshold, score and limit; areas are empty where no pair is rejected."""
    for trial in report.trials:
        for name, areas in trial.areas.items():
            for one in areas or (None,):
                figures = ("area", "low", "high", "random_mean", "random_low", "random_high", "ideal")
                found = (
                    [""] * len(figures)
                    if one is None
                    else [
                        f"{value:.6g}" for value in (one.area, *one.interval, one.random_mean, *one.random, one.ideal)
                    ]
                )
                yield {
                    "condition": trial.condition,
                    "threshold": trial.point.name,
                    "distance": f"{trial.point.threshold:.6g}",
                    "false_match_rate": "" if trial.false_match_rate is None else f"{trial.false_match_rate:.6g}",
                    "pairs": trial.pairs,
                    "rejected": trial.rejected,
                    "score": name,
                    "limit": "" if one is None else one.limit,
                    **dict(zip(figures, found, strict=True)),
                    "verdict": "" if one is None else one.verdict,
                }


def _face_rows(report: QualityReport) -> Iterator[dict[str, Any]]:
    """A row for each face that was measured, as it is or degraded."""
    for row, view in enumerate(report.views):
        rung = view.degradation
        yield {
            "image": escaped(view.name),
            "degradation": "" if rung is None else rung.kind,
            "severity": 0 if rung is None else rung.severity,
            "strength": "" if rung is None else f"{rung.strength:g}",
            "drawn": int(view in report.drawn),
            **{name: f"{scores[row]:.9g}" for name, scores in report.scores.items()},
        }


# ------------------------------------------------------------------------------------------------- page


def _html(report: QualityReport, numbers: Mapping[str, Any]) -> str:
    points = list(dict.fromkeys(trial.point.name for trial in report.trials))
    return render_page(
        "facegm.eval.quality/quality.html.jinja",
        **numbers,
        points=points,
        limits=LIMITS,
        main=[trial for trial in numbers["trials"] if trial["condition"] in (AS_THEY_ARE, HALF_DEGRADED)],
        charts=[
            discard_chart([t for t in report.trials_at(point) if t.condition in (AS_THEY_ARE, HALF_DEGRADED)])
            for point in points
        ],
        example_name=printable(next(iter(report.example)).name),
        example=_example(report),
    )


def _example(report: QualityReport) -> dict[str, list[dict[str, Any]]]:
    """The example's pictures by kind, each row beginning with the face as it is, and with its first score."""
    row_of = {view: row for row, view in enumerate(report.views)}
    name, scores = next(iter(report.scores.items()))
    shown = {
        view: {
            "picture": jpeg_uri(face),
            "strength": "as it is" if view.degradation is None else f"{view.degradation.strength:g}",
            "score": f"{name} {scores[row_of[view]]:.4g}",
        }
        for view, face in report.example.items()
    }
    first = next(iter(shown.values()))
    return {
        kind: [first, *(one for view, one in shown.items() if view.degradation and view.degradation.kind == kind)]
        for kind in STRENGTHS
    }
