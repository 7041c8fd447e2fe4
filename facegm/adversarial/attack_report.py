"""Writes what attacks came to: images as PNG, a table of them, `attack.json` with every number, a page for reading."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from facegm.adversarial.attack_charts import detector_chart
from facegm.adversarial.attack_results import AttackResult, by_rate, numbers_of
from facegm.adversarial.conclusions import conclusions
from facegm.adversarial.detection import FALSE_ALARM_RATES
from facegm.adversarial.lossless import write_png
from facegm.adversarial.verdict import USUAL_RATE
from facegm.data.names import escaped, printable
from facegm.data.pages import enlarged, jpeg_uri, render_page
from facegm.data.progress import Progress
from facegm.data.report_files import csv_file, json_file, write_files

JSON_FILE, TABLE_FILE, PAGE_FILE = "attack.json", "attack.csv", "attack.html"
PICTURES_SHOWN = 6
"""Of each attack."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackReport:
    """All that was found."""

    facts: Mapping[str, str]
    """What was attacked, in words."""
    classes: Sequence[str]
    """Their names."""
    examined: int
    """Images that were drawn, of which those that are classified right are attacked."""
    numbers: Int64[np.ndarray, " images"]
    """Of the attacked images, in their set."""
    keys: Sequence[str]
    """Their names there."""
    clean: UInt8[np.ndarray, "images height width channels"]
    """Before the attacks, as the network is shown them, in 8 bits."""
    results: Sequence[AttackResult]
    """Of each attack; one at least."""

    def summary(self) -> str:
        """A few lines of plain text."""
        lines = [f"{len(self.keys):,} of {self.examined:,} images are classified right, and attacked"]
        for result in self.results:
            found = numbers_of(result)
            distance = "" if found["distortion"] is None else f", distortion {found['distortion']:.2f} of 255"
            lines.append(
                f"  {result.name}: success {found['success']:.2%}, in 8 bits {found['success_quantised']:.2%}{distance}"
            )
            lines += [
                f"    {name}: AUC {scores['area']:.4f}, undetected at {USUAL_RATE:.0%} false alarms "
                f"{scores['undetected'][f'{USUAL_RATE:g}']:.2%}"
                for name, scores in found["detectors"].items()
            ]
        return "\n".join([*lines, *conclusions(self.results)])


def write_report(folder: Path, report: AttackReport) -> None:
    """Write a folder of PNG files for each attack, and table, numbers and page; each file appears whole or not at all.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    page = _html(report, numbers).encode()
    files = {TABLE_FILE: csv_file(_rows(report)), JSON_FILE: json_file(numbers), PAGE_FILE: page}
    with Progress("write images", len(report.keys) * len(report.results), "images") as progress:
        for result in report.results:
            (folder / result.name).mkdir(parents=True, exist_ok=True)
            for before in (folder / result.name).glob("[0-9]*.png"):  # of a command with other images
                before.unlink()
            for number, levels in zip(report.numbers.tolist(), result.levels, strict=True):
                write_png(folder / picture_name(result.name, number), levels)
                progress.update(1)
    write_files(folder, files)


def picture_name(attack: str, number: int) -> str:
    """The file of an attacked image, beside the report."""
    return f"{attack}/{number:05d}.png"


def report_numbers(report: AttackReport) -> dict[str, Any]:
    """Everything that `attack.json` holds: shares from 0 to 1, distortions on a scale of 0 to 255."""
    return {
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "classes": [escaped(name) for name in report.classes],
        "examined": report.examined,
        "attacked": len(report.keys),
        "attacks": [{"settings": asdict(one.recipe), **numbers_of(one)} for one in report.results],
        "verdict": conclusions(report.results),
    }


# ------------------------------------------------------------------------------------------------- table


def _rows(report: AttackReport) -> Iterator[dict[str, Any]]:
    """Of each attack, a row an image."""
    names = [escaped(name) for name in report.classes]
    for result in report.results:
        for row, (number, key) in enumerate(zip(report.numbers.tolist(), report.keys, strict=True)):
            label = names[result.labels[row]]
            yield {
                "attack": result.name,
                "image": escaped(key),
                "file": picture_name(result.name, number),
                "label": label,
                "target": "" if result.targets is None else names[result.targets[row]],
                "predicted_before": label,  # only such images are attacked
                "predicted": names[result.predicted[row]],
                "predicted_quantised": names[result.predicted_quantised[row]],
                "success": int(result.is_fooled[row]),
                "success_quantised": int(result.is_fooled_quantised[row]),
                "success_by_own_account": int(result.is_success[row]),
                "distortion": f"{result.distortion[row]:.6g}",
                "distortion_quantised": f"{result.distortion_quantised[row]:.6g}",
                "largest_change": f"{result.largest_change[row]:.6g}",
                "passes": int(result.passes[row]),
                **{
                    column: f"{scores[row]:.9g}"
                    for name, found in result.scores.items()
                    for column, scores in (
                        (f"{name} before", found.clean),
                        (name, found.attacked),
                        (f"{name} quantised", found.quantised),
                    )
                },
            }


# ------------------------------------------------------------------------------------------------- page


def _html(report: AttackReport, numbers: Mapping[str, Any]) -> str:
    first = report.results[0].scores
    charts = [
        detector_chart(name, first[name].clean, {one.name: one.scores[name].attacked for one in report.results})
        for name in first
    ]
    return render_page(
        "facegm.adversarial/attack.html.jinja",
        **numbers,
        strongest=max(numbers["attacks"], key=lambda one: float(one["success"])),
        rates=list(by_rate(dict.fromkeys(FALSE_ALARM_RATES, 0.0))),
        usual=f"{USUAL_RATE:g}",
        detectors=list(first),
        charts=charts,
        pictures=[(one.name, list(_pictures(report, one))) for one in report.results],
    )


def _pictures(report: AttackReport, result: AttackResult) -> Iterator[dict[str, Any]]:
    """The first images that fool the network as they are written, or else the first ones: before, change and after."""
    fooled = np.flatnonzero(result.is_fooled_quantised)
    for row in (fooled if len(fooled) else np.arange(len(report.keys)))[:PICTURES_SHOWN].tolist():
        change, factor = amplified_change(report.clean[row], result.levels[row])
        yield {
            "pictures": [_picture(one) for one in (report.clean[row], change, result.levels[row])],
            "factor": factor,
            "label": printable(report.classes[result.labels[row]]),
            "predicted": printable(report.classes[result.predicted_quantised[row]]),
            "image": printable(report.keys[row]),
            "distortion": float(result.distortion_quantised[row]),
        }


def amplified_change(
    clean: UInt8[np.ndarray, "height width channels"], attacked: UInt8[np.ndarray, "height width channels"]
) -> tuple[UInt8[np.ndarray, "height width channels"], int]:
    """The change of each pixel around a middle grey, so many times as large as fits; and how many times that is."""
    change = attacked.astype(np.int64) - clean
    factor = max(1, 127 // max(1, int(np.abs(change).max())))
    return np.clip(128 + factor * change, 0, 255).astype(np.uint8), factor


def _picture(levels: UInt8[np.ndarray, "height width channels"]) -> str:
    return jpeg_uri(enlarged(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))))
