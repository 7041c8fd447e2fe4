"""Everything that `report.json` holds, in the form of `report.schema.json`."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np

from facegm import __version__
from facegm.data.names import escaped
from facegm.eval.calibration import CalibrationReport
from facegm.eval.evaluation import VerificationReport
from facegm.eval.metrics import roc
from facegm.eval.protocol import Verification
from facegm.eval.reports.report_file import SCHEMA
from facegm.eval.sets.pairs import Pairs

MOST_LISTED = 200_000
"""Pairs up to which each is listed, in some 30 MB; of IJB-C's 16 million it would be gigabytes."""


def report_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`, which comes with the package."""
    text = (files("facegm.eval.reports") / "report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def report_numbers(report: VerificationReport) -> dict[str, Any]:
    """All figures: rates and accuracies from 0 to 1, distances as the scores define them, small for one person."""
    pairs, primary = report.pairs, report.primary
    return {
        "schema": SCHEMA,
        "note": report.note,
        "facts": {name: escaped(fact) for name, fact in report.facts.items()},
        "run": {"facegm": __version__, **report.provenance.describe()},
        "pairs": {
            "count": len(pairs),
            "same": int(np.count_nonzero(pairs.same)),
            "different": int(np.count_nonzero(~pairs.same)),
            "folds": len(primary.fold_accuracy),
            "images": len(pairs.images),
            "people": report.people,
            "with_fallback_image": int(np.count_nonzero(~report.acquired)),
            "dropped": None if report.dropped is None else report.dropped.numbers(),
            "fold_origin": pairs.fold_origin,
            "digest": pairs.digest,
        },
        "fallback_images": [escaped(name) for name in report.fallback_images],
        "variants": [
            {**_variant_numbers(pairs, verification), "calibration": _calibration_numbers(calibration)}
            for verification, calibration in zip(report.verifications, report.calibrations, strict=True)
        ],
        "not_scored": [{"name": name, "reason": reason} for name, reason in report.not_scored],
        "baseline": None if report.baseline is None else _variant_numbers(pairs, report.baseline),
        "intervals": report.intervals.describe(),
        "operating_point": report.operating_point.describe(),
        "reliability": [
            {**asdict(one), "interval": one.interval and [*one.interval]} for one in report.calibrations[0].reliability
        ],
        "true_accept_rates": [rate.describe() for rate in report.true_accept_rates()],
        "groups": [group.describe() for group in report.groups],
        "images_without_attributes": report.images_without_attributes,
        "scored": _listed(pairs) if len(pairs) <= MOST_LISTED else None,
    }


def _listed(pairs: Pairs) -> dict[str, Any]:
    return {
        "names_a": [escaped(name) for name in pairs.names_a],
        "names_b": [escaped(name) for name in pairs.names_b],
        "same": pairs.same.astype(int).tolist(),
        "fold": pairs.fold.tolist(),
    }


def _variant_numbers(pairs: Pairs, verification: Verification) -> dict[str, Any]:
    curve = roc(verification.distances, pairs.same)
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
        "distances": _rounded(verification.distances.tolist()) if len(pairs) <= MOST_LISTED else None,
    }


def _calibration_numbers(calibration: CalibrationReport) -> dict[str, float]:
    return {
        "cllr": calibration.cllr,
        "minimum_cllr": calibration.minimum_cllr,
        "calibration_error": calibration.calibration_error,
    }


def _rounded(values: Iterable[float]) -> list[float]:
    """To 9 significant digits, which tell any two single-precision numbers apart."""
    return [float(f"{value:.9g}") for value in values]
