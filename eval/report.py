"""Writes a verification report: `report.json` with every number, `report.html` for reading."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Int

from facegm.data.files import replace_atomically
from facegm.data.pages import jpeg_uri, render_page
from facegm.data.report_files import json_file
from facegm.eval.charts import distance_chart, roc_chart
from facegm.eval.lfw import FaceOf, VerificationReport
from facegm.eval.metrics import roc
from facegm.eval.protocol import Verification

HARDEST = 12
"""Pairs shown of each kind of mistake."""


def write_report(folder: Path, report: VerificationReport, *, face_of: FaceOf | None = None) -> None:
    """Write `report.json` and `report.html` into a folder; each appears whole or not at all.

    Args:
        folder: made if need be; reports already in it are replaced.
        report: the results.
        face_of: aligned face of an image name, for the pictures of the hardest pairs; None shows their names alone.
    """
    numbers = report_numbers(report)
    text = json_file(numbers)
    page = _html(report, numbers, face_of)
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / "report.json", text)
    replace_atomically(folder / "report.html", page.encode())


def report_numbers(report: VerificationReport) -> dict[str, object]:
    """Everything that `report.json` holds: rates and accuracies from 0 to 1, distances as plain L2."""
    pairs, primary = report.pairs, report.primary
    fallback = {*report.fallback_images}
    return {
        "note": report.note,
        "facts": dict(report.facts),
        "pairs": {
            "count": len(pairs),
            "same": int(np.count_nonzero(pairs.same)),
            "different": int(np.count_nonzero(~pairs.same)),
            "folds": len(primary.fold_accuracy),
            "images": len(pairs.images),
            "with_fallback_image": sum(
                a in fallback or b in fallback for a, b in zip(pairs.names_a, pairs.names_b, strict=True)
            ),
        },
        "fallback_images": list(report.fallback_images),
        "variants": [_variant_numbers(report, verification) for verification in report.verifications],
        "baseline": None if report.baseline is None else _variant_numbers(report, report.baseline),
        "true_accept_rates": [rate.describe() for rate in report.true_accept_rates()],
        "out_of_fold_distances": primary.distances.tolist(),
    }


def _variant_numbers(report: VerificationReport, verification: Verification) -> dict[str, object]:
    curve = roc(verification.distances, report.pairs.same)
    folds = zip(verification.fold_accuracy.tolist(), verification.fold_threshold.tolist(), strict=True)
    return {
        "variant": verification.variant.describe(),
        "accuracy": verification.accuracy,
        "standard_error": verification.standard_error,
        "mean_threshold": float(verification.fold_threshold.mean()),
        "oracle_accuracy": verification.oracle_accuracy,
        "area_under_roc": curve.area,
        "equal_error_rate": curve.equal_error_rate,
        "folds": [{"accuracy": accuracy, "threshold": threshold} for accuracy, threshold in folds],
    }


def hardest_pairs(report: VerificationReport, *, same: bool) -> Int[np.ndarray, " hardest"]:
    """Find the wrongly judged pairs furthest on the wrong side of their own fold's threshold, worst first.

    Args:
        report: the results; the primary variant's are looked at.
        same: True for false rejects (one person, too far apart), False for false accepts.

    Returns:
        At most `HARDEST` positions in the report's pairs.
    """
    primary, pairs = report.primary, report.pairs
    excess = primary.distances - primary.fold_threshold[pairs.fold]
    wrong = np.flatnonzero((excess >= 0) & pairs.same if same else (excess < 0) & ~pairs.same)
    return wrong[np.argsort(-np.abs(excess[wrong]), kind="stable")][:HARDEST]


def _html(report: VerificationReport, numbers: Mapping[str, object], face_of: FaceOf | None) -> str:
    primary = report.primary
    return render_page(
        "facegm.eval/report.html.jinja",
        **numbers,
        mistakes=[
            ("False accepts: different people, judged the same", _pictures(report, face_of, same=False)),
            ("False rejects: one person, judged different", _pictures(report, face_of, same=True)),
        ],
        roc_chart=roc_chart(report.roc(), int(np.count_nonzero(~report.pairs.same))),
        distance_chart=distance_chart(primary.distances, report.pairs.same, primary.fold_threshold),
    )


def _pictures(report: VerificationReport, face_of: FaceOf | None, *, same: bool) -> list[dict[str, object]]:
    pairs, primary = report.pairs, report.primary
    return [
        {
            "faces": [
                (name, None if face_of is None else jpeg_uri(face_of(name)))
                for name in (pairs.names_a[pair], pairs.names_b[pair])
            ],
            "distance": primary.distances[pair],
            "threshold": primary.fold_threshold[pairs.fold[pair]],
        }
        for pair in hardest_pairs(report, same=same)
    ]
