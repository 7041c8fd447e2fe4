"""Writes a classifier's evaluation: `evaluation.json` with every number, `evaluation.html` for reading."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from facegm.classification.evaluation import Detection, Evaluation, Histograms, Predictions, histograms
from facegm.classification.evaluation_charts import reliability_chart, score_chart
from facegm.classification.prediction import ImageSet
from facegm.data.names import escaped, printable
from facegm.data.pages import enlarged, jpeg_uri, render_page
from facegm.data.report_files import json_file, write_files

JSON_FILE, PAGE_FILE = "evaluation.json", "evaluation.html"
LARGEST_TABLE = 20
"""Classes up to which the whole confusion matrix is shown."""
PAIRS_SHOWN = 20
"""Confused pairs shown where there are more classes."""
MISTAKES_SHOWN = 24

Scores = Mapping[str, Float[np.ndarray, " images"]]
"""By name, as `facegm.classification.evaluation.ood_scores` gives them."""


@dataclass(frozen=True, kw_only=True)
class OutsideResult:
    """How images of no class scored."""

    name: str
    scores: Scores
    detections: Mapping[str, Detection]
    """Of each score."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationReport:
    """All that was found."""

    facts: Mapping[str, str]
    """What was evaluated on what, in words."""
    classes: Sequence[str]
    evaluation: Evaluation
    images: ImageSet
    predictions: Predictions
    scores: Scores
    """Of the images of the classes; the first one's histogram is shown."""
    outside: Sequence[OutsideResult]

    @cached_property
    def mistakes(self) -> list[int]:
        """Numbers of the images that are classified wrong, most confident first."""
        wrong = np.flatnonzero(self.predictions.predicted != self.predictions.labels)
        order: list[int] = wrong[np.argsort(-self.predictions.max_log_posterior[wrong], kind="stable")].tolist()
        return order

    def histograms(self) -> Histograms:
        """Of the first score, in the images of the classes and in each outside set."""
        first = next(iter(self.scores))
        return histograms(self.scores[first], [one.scores[first] for one in self.outside])

    def summary(self) -> str:
        """A few lines of plain text."""
        e = self.evaluation
        lines = [
            f"{e.images:,} images of {len(self.classes):,} classes",
            f"  accuracy {e.accuracy:.2%} (95 % interval {e.interval[0]:.2%} to {e.interval[1]:.2%})",
            *([] if e.top5 is None else [f"  top-5 accuracy {e.top5:.2%}"]),
            f"  calibration error {e.calibration_error:.2%}, cross-entropy {e.cross_entropy:.4f}",
            f"out-of-distribution (OOD) detection by {', '.join(self.scores)}: AUC (false alarms at 95 % let in)",
        ]
        for one in self.outside:
            figures = ", ".join(f"{d.area:.4f} ({d.false_alarm_rate:.2%})" for d in one.detections.values())
            lines.append(f"  {one.name}: {figures}")
        return "\n".join(lines)


def write_report(folder: Path, report: EvaluationReport) -> None:
    """Write `evaluation.json` and `evaluation.html` into a folder; each appears whole or not at all.

    Args:
        folder: made if need be; an evaluation that is already in it is replaced.
        report: the results.
    """
    numbers = report_numbers(report)
    write_files(folder, {JSON_FILE: json_file(numbers), PAGE_FILE: _html(report, numbers).encode()})


def report_numbers(report: EvaluationReport) -> dict[str, Any]:
    """Everything that `evaluation.json` holds: rates from 0 to 1, scores and posteriors in natural logarithms."""
    e, classes = report.evaluation, [escaped(name) for name in report.classes]
    edges, counts = report.histograms()
    first, names = next(iter(report.scores)), [report.images.name, *(one.name for one in report.outside)]
    confusion = zip(*np.nonzero(e.confusion), e.confusion[e.confusion > 0].tolist(), strict=True)
    return {
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "classes": classes,
        "images": e.images,
        "accuracy": e.accuracy,
        "accuracy_interval": list(e.interval),
        "top5_accuracy": e.top5,
        "cross_entropy": e.cross_entropy,
        "calibration_error": e.calibration_error,
        "reliability": [asdict(one) for one in e.bins],
        "confusion": [{"class": classes[own], "predicted": classes[other], "images": n} for own, other, n in confusion],
        "outside": [
            {
                "name": escaped(one.name),
                "images": len(one.scores[first]),
                "scores": {score: asdict(detection) for score, detection in one.detections.items()},
            }
            for one in report.outside
        ],
        "histogram": {
            "score": first,
            "edges": edges.tolist(),
            "images": {escaped(name): each.tolist() for name, each in zip(names, counts, strict=True)},
        },
        "mistakes": [_mistake(report, number, classes) for number in report.mistakes],
    }


def _mistake(report: EvaluationReport, number: int, classes: Sequence[str]) -> dict[str, Any]:
    p = report.predictions
    return {
        "image": escaped(report.images.samples.keys[number]),
        "class": classes[p.labels[number]],
        "predicted": classes[p.predicted[number]],
        "max_log_posterior": float(p.max_log_posterior[number]),
    }


def _html(report: EvaluationReport, numbers: Mapping[str, Any]) -> str:
    e, first = report.evaluation, next(iter(report.scores))
    names = [printable(name) for name in (report.images.name, *(one.name for one in report.outside))]
    shown = numbers["mistakes"][:MISTAKES_SHOWN]
    pictures = [jpeg_uri(enlarged(report.images.picture(number))) for number in report.mistakes[:MISTAKES_SHOWN]]
    errors = [row for row in numbers["confusion"] if row["class"] != row["predicted"]]
    return render_page(
        "facegm.classification/evaluation.html.jinja",
        **{name: value for name, value in numbers.items() if name != "mistakes"},
        matrix=e.confusion.tolist() if len(report.classes) <= LARGEST_TABLE else None,
        pairs=sorted(errors, key=lambda row: -row["images"])[:PAIRS_SHOWN],
        score_names=list(report.scores),
        mistakes=list(zip(shown, pictures, strict=True)),
        wrong=e.images - e.right,
        reliability_chart=reliability_chart(e.bins),
        score_chart=score_chart(first, names, report.histograms()),
    )
