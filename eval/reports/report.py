"""Writes a verification report: `report.json` with every number, `report.html` for reading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facegm.data.pages import render_page
from facegm.data.report_files import json_file, write_files
from facegm.eval.error_rates import det
from facegm.eval.evaluation import FaceOf, VerificationReport
from facegm.eval.reports.charts import det_chart, distance_chart, map_chart, reliability_chart, roc_chart
from facegm.eval.reports.groups import FEWEST_PAIRS
from facegm.eval.reports.mistakes import pictures
from facegm.eval.reports.numbers import report_numbers
from facegm.eval.reports.report_file import REPORT_FILE
from facegm.eval.reports.tables import counted, fact_rows, protocol_rows, rate_rows, score_rows, setting_rows

PAGE_FILE = "report.html"


def write_report(folder: Path, report: VerificationReport, *, face_of: FaceOf | None = None) -> None:
    """Write `report.json` and `report.html` into a folder; each appears whole or not at all.

    Args:
        folder: made if need be; reports already in it are replaced.
        report: the results.
        face_of: aligned face of an image name, for the pictures of the hardest pairs; None shows their names alone.
    """
    numbers = report_numbers(report)
    page = _html(report, numbers, face_of).encode()
    write_files(folder, {REPORT_FILE: json_file(numbers), PAGE_FILE: page})


def _html(report: VerificationReport, numbers: Mapping[str, Any], face_of: FaceOf | None) -> str:
    pairs, primary, band = report.pairs, report.primary, report.intervals.band
    provenance = report.provenance
    return render_page(
        "facegm.eval.reports/report.html.jinja",
        note=report.note,
        primary=primary,
        pairs=numbers["pairs"],
        intervals=report.intervals,
        protocol=protocol_rows(report),
        scores=score_rows(report, numbers),
        not_scored=report.not_scored,
        rates=rate_rows(report),
        true_accept_rates=report.true_accept_rates(),
        groups=report.groups,
        images_without_attributes=report.images_without_attributes,
        fallback_images=numbers["fallback_images"],
        with_fallback_image=counted(numbers["pairs"]["with_fallback_image"], "pair"),
        mistakes=[
            ("False accepts: different people, judged the same", pictures(report, face_of, same=False)),
            ("False rejects: one person, judged different", pictures(report, face_of, same=True)),
        ],
        facts=fact_rows(report),
        settings=[
            ("Settings of the store of the scored faces", setting_rows(provenance.store or {})),
            ("Configuration of the run", setting_rows(provenance.config or {})),
        ],
        folds=list(zip(primary.fold_accuracy, primary.fold_threshold, strict=True)),
        fewest_pairs=FEWEST_PAIRS,
        roc_chart=roc_chart(report.roc(), band, int(np.count_nonzero(~pairs.same))),
        det_chart=det_chart(det(primary.distances, pairs.same), band),
        distance_chart=distance_chart(primary.distances, pairs.same, primary.fold_threshold),
        reliability_chart=reliability_chart(report.calibrations[0].reliability),
        map_chart=None if report.map is None else map_chart(report.map),
    )
