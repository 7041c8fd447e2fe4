"""Reads a verification's `report.json` again: the pairs, and how each score judged every one of them."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64

from facegm.errors import FacegmError
from facegm.eval.sets.pairs import Pairs

SCHEMA = 2
"""Version of `report.json`: raised where a field goes or changes its meaning."""
REPORT_FILE = "report.json"

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredReport:
    """What a verification has found, pair by pair."""

    path: Path
    """The file."""
    pairs: Pairs
    """All pairs of the set, in its order."""
    right: Mapping[str, Bool[np.ndarray, " pairs"]]
    """By the score's name, the primary one first: which pairs it judged rightly, by the threshold of their fold."""
    distances_digest: str
    """Of the distances by all scores, which no two networks have in common."""
    config: Mapping[str, Any] | None
    """Resolved configuration of the run that trained the network; None where there is none."""
    model_digest: str | None
    """Of the network's weights; None where embeddings were given."""


def find_report(run: Path) -> Path:
    """The report of a run folder, which `facegm verify-lfw` writes into its `lfw`, or of any folder that holds one.

    Raises:
        FacegmError: there is none.
    """
    if not run.is_dir():
        return run
    for found in (run / REPORT_FILE, run / "lfw" / REPORT_FILE):
        if found.is_file():
            return found
    raise FacegmError(
        f"{run}: neither {REPORT_FILE} nor lfw/{REPORT_FILE} in it; run `facegm verify-lfw {run} --lfw PHOTOS`, or "
        f"name the {REPORT_FILE} of another set"
    )


def read_report(path: Path) -> ScoredReport:
    """Read a report, and see that its distances and thresholds give the accuracies that it tells.

    Args:
        path: the `report.json`.

    Raises:
        FacegmError: no such file, not a report, of another version, or one of its values is missing or wrong; file and
            key are named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FacegmError(f"{path}: cannot be read as a verification report: {error}") from error
    report = _Part(path, "", content)
    _require_schema(report)
    pairs = _pairs(report["scored"])
    right: dict[str, Bool[np.ndarray, " pairs"]] = {}
    digest = hashlib.sha256()
    for variant in report["variants"].parts():
        name = variant["variant"]["name"]
        if name.text in right:
            raise name.error("the name of two scores")
        distances = np.array(variant["distances"].numbers(len(pairs)), np.float64)
        right[name.text] = _judged_right(distances, variant["folds"], pairs)
        digest.update(distances.tobytes())
    if not right:
        raise report["variants"].error("no score at all")
    run = report["run"]
    return ScoredReport(
        path=path,
        pairs=pairs,
        right=right,
        distances_digest=digest.hexdigest(),
        config=run["config"].or_none(lambda part: part.mapping),
        model_digest=run["model_digest"].or_none(lambda part: part.text),
    )


class _Part:
    """A value within a file, which knows its key."""

    def __init__(self, path: Path, key: str, value: Any) -> None:
        self._path, self._key, self._value = path, key, value

    def __getitem__(self, key: str) -> "_Part":
        if key not in self.mapping:
            raise self._error(self._below(key), "missing; it is not a whole report of facegm")
        return _Part(self._path, self._below(key), self.mapping[key])

    def _below(self, key: str) -> str:
        return f"{self._key}.{key}" if self._key else key

    def error(self, trouble: str) -> FacegmError:
        return self._error(self._key, trouble)

    def _error(self, key: str, trouble: str) -> FacegmError:
        return FacegmError(f"{self._path}: {key}: {trouble}" if key else f"{self._path}: {trouble}")

    def has(self, key: str) -> bool:
        return key in self.mapping

    def or_none(self, read: Callable[["_Part"], Value]) -> Value | None:
        return None if self._value is None else read(self)

    @property
    def mapping(self) -> Mapping[str, Any]:
        if not isinstance(self._value, dict):
            raise self.error("expected a mapping")
        return self._value

    @property
    def text(self) -> str:
        if not _is_text(self._value):
            raise self.error("expected text")
        return str(self._value)

    @property
    def number(self) -> float:
        if not _is_number(self._value):
            raise self.error("expected a finite number")
        return float(self._value)

    def parts(self, length: int | None = None) -> list["_Part"]:
        return [_Part(self._path, f"{self._key}[{number}]", one) for number, one in enumerate(self._list(length))]

    def texts(self, length: int | None = None) -> list[str]:
        return self._all(length, _is_text, "text")

    def numbers(self, length: int) -> list[float]:
        return self._all(length, _is_number, "a finite number")

    def whole_numbers(self, length: int, *, below: int) -> list[int]:
        return self._all(length, lambda one: type(one) is int and 0 <= one < below, f"a whole number below {below}")

    def _all(self, length: int | None, is_right: Callable[[Any], bool], expected: str) -> list[Any]:
        values = self._list(length)
        for number, value in enumerate(values):
            if not is_right(value):
                raise self._error(f"{self._key}[{number}]", f"expected {expected}")
        return values

    def _list(self, length: int | None) -> list[Any]:
        if not isinstance(self._value, list):
            raise self.error("expected a list")
        if length is not None and len(self._value) != length:
            raise self.error(f"{len(self._value)} values, expected {length}")
        return self._value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _require_schema(report: _Part) -> None:
    if not report.has("schema"):
        raise report.error(
            "no report of facegm, or one of an earlier version, which did not hold the judgement of every pair; run "
            "`facegm verify-lfw` again"
        )
    schema = report["schema"]
    if schema.number != SCHEMA:
        raise schema.error(f"{schema.number:g}, but this facegm reads {SCHEMA}; run `facegm verify-lfw` again")


def _pairs(scored: _Part) -> Pairs:
    names_a = tuple(scored["names_a"].texts())
    count = len(names_a)
    names_b = tuple(scored["names_b"].texts(count))
    same = np.array(scored["same"].whole_numbers(count, below=2)) == 1
    fold = np.array(scored["fold"].whole_numbers(count, below=count))
    if count < 2 or len(np.unique(fold)) != fold.max() + 1:
        raise scored["fold"].error("expected at least two pairs, and folds numbered from 0 without a gap")
    return Pairs(names_a, names_b, same, fold)


def _judged_right(
    distances: Float64[np.ndarray, " pairs"], of_folds: _Part, pairs: Pairs
) -> Bool[np.ndarray, " pairs"]:
    folds = of_folds.parts(int(pairs.fold.max()) + 1)
    thresholds = np.array([fold["threshold"].number for fold in folds])
    right = np.asarray((distances < thresholds[pairs.fold]) == pairs.same)
    for number, fold in enumerate(folds):
        judged = right[pairs.fold == number]
        told = fold["accuracy"].number * len(judged)
        # Distances are rounded: one that all but meets the threshold may have come to its other side.
        if abs(told - np.count_nonzero(judged)) > 1.5:
            raise fold["accuracy"].error(
                f"{fold['accuracy'].number:g}, but by distances and threshold {np.count_nonzero(judged)} of "
                f"{len(judged)} pairs are judged rightly; run `facegm verify-lfw` again"
            )
    return right
