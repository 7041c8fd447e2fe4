"""Writes what attacks on faces came to: a table of the photos, `attack.json` with every number, a page for reading."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from facegm.adversarial.attack_charts import detector_chart
from facegm.adversarial.attack_report import JSON_FILE, PAGE_FILE, TABLE_FILE, amplified_change
from facegm.adversarial.attack_results import by_rate, mean_where
from facegm.adversarial.detection import FALSE_ALARM_RATES
from facegm.adversarial.face_attack import FaceAttackReport, FaceAttackResult
from facegm.adversarial.face_attack_charts import success_chart
from facegm.adversarial.face_crafting import BUDGETS, FACE_ATTACKS
from facegm.adversarial.face_objectives import GOALS, Goal
from facegm.data.names import escaped, printable
from facegm.data.pages import jpeg_uri, render_page
from facegm.data.report_files import csv_file, json_file, write_files

NEAREST = ("cw", "ddn")
"""Attacks that search the nearest success."""
CHARTED = ("fgsm", "pgd-8", "cw")
SHOWN = ("pgd-4", "cw")
PICTURES_SHOWN = 6
"""Of each goal and attack of `SHOWN`."""
THREAT_MODEL = (
    "The attacker knows the network, its preprocessing, the photo that the attacked one is compared with, and the "
    "threshold, and changes pixels of the aligned face, which go to the network as they are. The detectors are not "
    "attacked. No robustness claimed: who knows a detector too can attack it together with the network."
)


def summary(report: FaceAttackReport) -> str:
    """A few lines of plain text."""
    lines = [f"verification accuracy {report.accuracy:.2%}; attacked pairs are judged right before"]
    for one in report.results:
        found = _numbers_of(one)
        distance = "" if found["distortion"] is None else f", distortion {found['distortion']:.2f} of 255"
        lines.append(
            f"  {found['goal']} of {found['pairs']:,} pairs by {one.name}: success {found['success']:.2%}, "
            f"in 8 bits {found['success_quantised']:.2%}{distance}"
        )
        lines += [f"    {name}: AUC {detection.area:.4f}" for name, detection in one.detections.items()]
    for strange in report.strange:
        lines.append(f"  {strange.name}: " + ", ".join(f"AUC {a:.4f} of {name}" for name, a in strange.areas.items()))
    return "\n".join([*lines, THREAT_MODEL])


def write_report(folder: Path, report: FaceAttackReport) -> None:
    """Write table, numbers and page; each file appears whole or not at all.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    page = _html(report, numbers).encode()
    write_files(folder, {TABLE_FILE: csv_file(_rows(report)), JSON_FILE: json_file(numbers), PAGE_FILE: page})


def report_numbers(report: FaceAttackReport) -> dict[str, Any]:
    """Everything that `attack.json` holds: shares from 0 to 1, distortions on a scale of 0 to 255, L2 thresholds."""
    return {
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "threat_model": THREAT_MODEL,
        "accuracy": report.accuracy,
        "thresholds": list(report.thresholds),
        "recipes": {name: asdict(recipe) for name, recipe in FACE_ATTACKS.items()},
        "attacks": [_numbers_of(one) for one in report.results],
        "success_over_budget": {
            goal: {budget: float(_find(report, goal, f"pgd-{budget}").is_success.mean()) for budget in BUDGETS}
            for goal in GOALS
        },
        "strange_inputs": [
            {
                "name": escaped(one.name),
                "inputs": len(next(iter(one.scores.values()))),
                "detectors": {
                    name: {"area": one.areas[name], "noticed": by_rate(one.noticed[name])} for name in one.areas
                },
            }
            for one in report.strange
        ],
    }


def _numbers_of(one: FaceAttackResult) -> dict[str, Any]:
    chosen = one.is_success
    return {
        "goal": one.pairs.goal,
        "attack": one.name,
        "pairs": len(chosen),
        "success": float(chosen.mean()),
        "success_quantised": float(one.is_success_quantised.mean()),
        "distortion": mean_where(one.distortion, chosen),
        "median_distortion": float(np.median(one.distortion[chosen])) if chosen.any() else None,
        "largest_change": mean_where(one.largest_change, chosen),
        "passes": float(one.passes.mean()),
        "detectors": {
            name: {
                "area": found.area,
                "area_of_successes": found.area_of_successes,
                "undetected": by_rate(found.undetected),
            }
            for name, found in one.detections.items()
        },
    }


def _find(report: FaceAttackReport, goal: Goal, name: str) -> FaceAttackResult:
    return next(one for one in report.results if (one.pairs.goal, one.name) == (goal, name))


# ------------------------------------------------------------------------------------------------- table


def _rows(report: FaceAttackReport) -> Iterator[dict[str, Any]]:
    """Of each attack, a row a photo."""
    for one in report.results:
        for row, (name, other) in enumerate(zip(one.pairs.names, one.pairs.other_names, strict=True)):
            yield {
                "goal": one.pairs.goal,
                "attack": one.name,
                "photo": escaped(name),
                "other": escaped(other),
                "success": int(one.is_success[row]),
                "success_quantised": int(one.is_success_quantised[row]),
                "distortion": f"{one.distortion[row]:.6g}",
                "largest_change": f"{one.largest_change[row]:.6g}",
                "passes": int(one.passes[row]),
                **{name: f"{scores[row]:.9g}" for name, scores in one.scores.items()},
            }


# ------------------------------------------------------------------------------------------------- page


def _html(report: FaceAttackReport, numbers: Mapping[str, Any]) -> str:
    distortions: dict[str, dict[str, list[float]]] = {
        goal: {name: (found := _find(report, goal, name)).distortion[found.is_success].tolist() for name in NEAREST}
        for goal in GOALS
    }
    most = max(len(one.is_success) for one in report.results)
    return render_page(
        "facegm.adversarial/face_attack.html.jinja",
        **numbers,
        rates=[f"{rate:g}" for rate in FALSE_ALARM_RATES],
        detectors=list(report.clean),
        success_chart=success_chart(numbers["success_over_budget"], distortions, most),
        charts=[chart for name in report.clean for chart in _detector_charts(report, name)],
        pictures=[(f"{goal}, {name}", list(_pictures(_find(report, goal, name)))) for goal in GOALS for name in SHOWN],
    )


def _detector_charts(report: FaceAttackReport, detector: str) -> tuple[str, str]:
    """Of the attacks, those of both goals together, and of the strange inputs."""
    clean = report.clean[detector]
    attacked = {
        name: np.concatenate([_find(report, goal, name).scores[detector] for goal in GOALS]) for name in CHARTED
    }
    strange = {printable(one.name): one.scores[detector] for one in report.strange}
    return detector_chart(detector, clean, attacked), detector_chart(detector, clean, strange)


def _pictures(result: FaceAttackResult) -> Iterator[dict[str, Any]]:
    """The first photos that are misjudged as they are written, or else the first ones: before, change and after."""
    chosen = np.flatnonzero(result.is_success_quantised)
    for row in (chosen if len(chosen) else np.arange(len(result.levels)))[:PICTURES_SHOWN].tolist():
        clean, attacked = result.pairs.faces[row], result.levels[row]
        change, factor = amplified_change(clean, attacked)
        yield {
            "pictures": [jpeg_uri(one) for one in (clean, change, attacked, result.pairs.other_faces[row])],
            "factor": factor,
            "is_success": bool(result.is_success_quantised[row]),
            "photo": printable(result.pairs.names[row]),
            "other": printable(result.pairs.other_names[row]),
            "distortion": float(result.distortion[row]),
        }
