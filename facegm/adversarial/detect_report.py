"""Writes what a detector says of a user's images: a table of them, `detect.json` with every number, a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from facegm.adversarial.attack_charts import draw_histograms
from facegm.classification.prediction import ImageSet
from facegm.data.charts import INK, drawn, svg
from facegm.data.names import escaped, printable
from facegm.data.pages import enlarged, jpeg_uri, render_page
from facegm.data.report_files import csv_file, json_file, write_files

JSON_FILE, TABLE_FILE, PAGE_FILE = "detect.json", "detect.csv", "detect.html"
PICTURES_SHOWN = 12
CAVEAT = (
    "No robustness claimed: an attacker who knows this detector can make images that fool the network and pass it, and "
    "most detectors of this kind were broken that way. It tells images that were not made against it, and images of "
    "none of the classes; an image below the threshold is unusual, which is not yet manipulated."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectReport:
    """All that was found."""

    facts: Mapping[str, str]
    """What was looked at by what, in words."""
    classes: Sequence[str]
    """Their names."""
    detector: str
    clean: Float[np.ndarray, " clean"]
    """Scores of the clean test images; higher for normal ones."""
    rate: float
    """The most of them that may be taken for manipulated."""
    threshold: float
    """The score below which an image is."""
    images: ImageSet
    """The user's."""
    predicted: Int64[np.ndarray, " images"]
    scores: Float[np.ndarray, " images"]

    @property
    def is_manipulated(self) -> Bool[np.ndarray, " images"]:
        """Whether each of the user's images is taken for manipulated."""
        return np.asarray(self.scores < self.threshold)

    @property
    def false_alarms(self) -> float:
        """Share of the clean test images that is taken for manipulated."""
        return float((self.clean < self.threshold).mean())

    def summary(self) -> str:
        """A few lines of plain text."""
        return (
            f"{np.count_nonzero(self.is_manipulated):,} of {len(self.scores):,} images are taken for manipulated by "
            f"{self.detector}, as are {self.false_alarms:.2%} of {len(self.clean):,} clean test images\n{CAVEAT}"
        )


def write_report(folder: Path, report: DetectReport) -> None:
    """Write table, numbers and page; each file appears whole or not at all.

    Args:
        folder: made if need be; what is already in it under these names is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    page = _html(report, numbers).encode()
    write_files(folder, {TABLE_FILE: csv_file(_rows(report)), JSON_FILE: json_file(numbers), PAGE_FILE: page})


def report_numbers(report: DetectReport) -> dict[str, Any]:
    """Everything that `detect.json` holds; shares from 0 to 1."""
    return {
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "detector": report.detector,
        "clean": len(report.clean),
        "rate": report.rate,
        "threshold": report.threshold,
        "false_alarms": report.false_alarms,
        "images": len(report.scores),
        "manipulated": int(np.count_nonzero(report.is_manipulated)),
        "caveat": CAVEAT,
    }


def _rows(report: DetectReport) -> Iterator[dict[str, Any]]:
    """A row an image."""
    rows = zip(report.images.samples.keys, report.predicted, report.scores, report.is_manipulated, strict=True)
    for key, predicted, score, is_manipulated in rows:
        yield {
            "image": escaped(key),
            "predicted": escaped(report.classes[predicted]),
            "score": f"{score:.9g}",
            "manipulated": int(is_manipulated),
        }


def _html(report: DetectReport, numbers: Mapping[str, Any]) -> str:
    return render_page(
        "facegm.adversarial/detect.html.jinja",
        **numbers,
        chart=_chart(report),
        pictures=[
            {
                "picture": jpeg_uri(enlarged(report.images.picture(row))),
                "image": printable(report.images.samples.keys[row]),
                "predicted": printable(report.classes[report.predicted[row]]),
                "score": float(report.scores[row]),
                "is_manipulated": bool(report.is_manipulated[row]),
            }
            for row in np.argsort(report.scores, kind="stable")[:PICTURES_SHOWN].tolist()
        ],
    )


def _chart(report: DetectReport) -> str:
    with drawn(9, 3.4) as figure:
        axes = figure.subplots()
        draw_histograms(axes, report.clean, {"these images": report.scores})
        axes.axvline(report.threshold, color=INK, linewidth=1.2, linestyle="--", label="threshold")
        axes.set(xlabel=f"score of {report.detector}", ylabel="share of the images")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return svg(figure, f"Histogram of the scores of {report.detector}, of clean test images and of these images")
