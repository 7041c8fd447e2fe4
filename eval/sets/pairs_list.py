"""Pairs as two paths and whether they show one person: a line each, or CSV with or without named columns."""

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

from facegm.errors import FacegmError
from facegm.eval.sets.pairs_text import Line, PairLines

_SIDES = tuple(product(("path", "file", "image", "img"), (("_a", "_b"), ("1", "2"), ("_1", "_2"))))
_PATHS = tuple((f"{word}{a}", f"{word}{b}") for word, (a, b) in _SIDES)
"""What the columns of the two paths may be called."""
_SAME = ("same", "is_same", "issame", "label")
_LABELS = {"1": True, "true": True, "0": False, "false": False}
_PATH_EXPECTED = "a path below the photos' folder, neither absolute nor with `..`"
_FOLD = re.compile(r"[0-9]{1,9}")
_DRIVE = re.compile(r"[A-Za-z]:")
_EXPECTED = (
    "expected pairs as `path_a,path_b,same` (1 or 0, and perhaps a fold's number behind it), a first line that names "
    "these columns, or LFW's format, which begins as `10<TAB>300`"
)

_Value = TypeVar("_Value")


class _Columns(NamedTuple):
    """Which columns hold what."""

    a: int
    b: int
    same: int
    fold: int | None


def read_list(path: Path, lines: Sequence[Line]) -> PairLines:
    """Read pairs of paths; see `facegm.eval.sets.pairs.read_pairs`.

    Raises:
        FacegmError: the first line is none of a list, or a line is malformed.
    """
    named = _named_columns(lines[0].fields)
    columns = named or _usual_columns(lines[0].fields)
    if columns is None:
        raise FacegmError(f"{path}, line {lines[0].number}: {_EXPECTED}; found {lines[0].text[:80]!r}")
    rows = lines if named is None else lines[1:]
    if not rows:
        raise FacegmError(f"{path}: no pair follows the first line, which names columns")
    width = len(lines[0].fields)
    for row in rows:
        if len(row.fields) != width:
            raise FacegmError(
                f"{path}, line {row.number}: expected {width} columns as in line {lines[0].number}, found "
                f"{len(row.fields)} in {row.text[:80]!r}; separate them by tabs where paths hold spaces or commas"
            )
    names_a = _column(path, rows, columns.a, _image, _PATH_EXPECTED)
    names_b = _column(path, rows, columns.b, _image, _PATH_EXPECTED)
    for row, a, b in zip(rows, names_a, names_b, strict=True):
        if a == b:
            raise FacegmError(f"{path}, line {row.number}: expected two images, found {a!r} twice")
    same = _column(path, rows, columns.same, _label, "1 (one person) or 0 (two)")
    fold = None if columns.fold is None else _column(path, rows, columns.fold, _fold, "a fold's number")
    return PairLines(names_a, names_b, same, fold)


def _named_columns(fields: Sequence[str]) -> _Columns | None:
    """What a first line says that names columns."""
    names = [field.lower() for field in fields]
    paths = next((pair for pair in _PATHS if set(pair) <= {*names}), None)
    same = next((name for name in _SAME if name in names), None)
    if paths is None or same is None:
        return None
    fold = names.index("fold") if "fold" in names else None
    return _Columns(names.index(paths[0]), names.index(paths[1]), names.index(same), fold)


def _usual_columns(fields: Sequence[str]) -> _Columns | None:
    """What a first line's columns hold that is a pair already."""
    if len(fields) not in (3, 4) or _label(fields[2]) is None:
        return None
    return _Columns(0, 1, 2, 3 if len(fields) == 4 else None)


def _column(
    path: Path, rows: Sequence[Line], column: int, parse: Callable[[str], _Value | None], expected: str
) -> list[_Value]:
    """The values of a column.

    Raises:
        FacegmError: a field cannot be understood; line and field are named.
    """
    values = []
    for row in rows:
        value = parse(row.fields[column])
        if value is None:
            found = row.fields[column][:80]
            raise FacegmError(f"{path}, line {row.number}, column {column + 1}: expected {expected}, found {found!r}")
        values.append(value)
    return values


def _image(text: str) -> str | None:
    """A path as POSIX spells it, unless it leads out of the folder that it is relative to."""
    name = text.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_outside = name.startswith("/") or _DRIVE.match(name) or ".." in parts
    return None if is_outside or not parts else "/".join(parts)


def _label(text: str) -> bool | None:
    return _LABELS.get(text.lower())


def _fold(text: str) -> int | None:
    return int(text) if _FOLD.fullmatch(text) else None
