"""Pairs as LFW's `pairs.txt` lists them: people by name, and their photos by number."""

import re
from collections.abc import Sequence
from pathlib import Path

from facegm.errors import FacegmError
from facegm.eval.sets.pairs_text import Line, PairLines

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_PERSON = re.compile(r"[^/\\]*[^/\\.][^/\\]*")  # one folder name: no separator, neither `.` nor `..`
_MATCHED = "a matched pair `name<TAB>number<TAB>number`"
_MISMATCHED = "a mismatched pair `name<TAB>number<TAB>other name<TAB>number`"
_CSV_HEADER = ["name", "imagenum1"]
"""How the first line of LFW's files begins where they were turned into CSV."""


def has_header(lines: Sequence[str]) -> bool:
    """Whether a file begins with the number of folds and that of pairs, or with the latter alone."""
    fields = lines[0].split()
    return len(fields) in (1, 2) and all(_NUMBER.fullmatch(field) for field in fields)


def read_headed(path: Path, lines: Sequence[str], extension: str) -> PairLines:
    """Read LFW's own layout; see `facegm.eval.sets.pairs.read_pairs`.

    Raises:
        FacegmError: a line is malformed, or the number of lines is not the header's.
    """
    header = [int(field) for field in lines[0].split()]
    folds, size = (header[0] if len(header) == 2 else 1), header[-1]
    names = []
    for row, line in enumerate(lines[1 : 1 + 2 * folds * size]):
        is_matched = row % (2 * size) < size
        pair = _images(_fields(line), extension, matched=is_matched)
        if pair is None:
            expected = _MATCHED if is_matched else _MISMATCHED
            place = f"number {row % size + 1} of {size} in fold {row // (2 * size) + 1}"
            raise FacegmError(f"{path}, line {row + 2}: expected {expected} ({place}), found {line[:80]!r}")
        names.append(pair)
    if len(lines) - 1 != 2 * folds * size:
        raise FacegmError(
            f"{path}, line 1: the header promises {folds} folds of {size} matched and {size} mismatched pairs, "
            f"so expected {2 * folds * size} lines after it, found {len(lines) - 1}"
        )
    rows = range(len(names))
    return PairLines(
        [a for a, _ in names],
        [b for _, b in names],
        [row % (2 * size) < size for row in rows],
        [row // (2 * size) for row in rows],
    )


def is_headless(lines: Sequence[Line]) -> bool:
    """Whether lines name people and photos' numbers, and not two paths and a 1 or 0."""
    first = lines[0].fields
    if first[:2] == _CSV_HEADER:
        return True
    if len(first) < 3 or not _NUMBER.fullmatch(first[1]):
        return False
    # Paths may be mere numbers too; but no photo has the number 0.
    has_label = any(len(line.fields) > 2 and line.fields[2] == "0" for line in lines)
    return not (has_label and len({len(line.fields) for line in lines}) == 1)


def read_headless(path: Path, lines: Sequence[Line], extension: str) -> PairLines:
    """Read LFW's lines in any order, without folds.

    Raises:
        FacegmError: a line is malformed.
    """
    names_a, names_b, same = [], [], []
    for line in lines[1:] if lines[0].fields[:2] == _CSV_HEADER else lines:
        fields = [field for field in line.fields if field]  # matched pairs have an empty fourth column in CSV
        is_matched = len(fields) == 3
        pair = _images(fields, extension, matched=is_matched)
        if pair is None:
            raise FacegmError(
                f"{path}, line {line.number}: expected {_MATCHED} or {_MISMATCHED}, found {line.text[:80]!r}"
            )
        names_a.append(pair[0])
        names_b.append(pair[1])
        same.append(is_matched)
    return PairLines(names_a, names_b, same, None)


def _fields(line: str) -> list[str]:
    """The columns of a line, at tabs where there are tabs: names may hold spaces."""
    return [field for field in map(str.strip, line.split("\t")) if field] if "\t" in line else line.split()


def _images(fields: Sequence[str], extension: str, *, matched: bool) -> tuple[str, str] | None:
    """Both images of `name n m`, or of `name n other m`; None unless they are two of one person, or of two people."""
    if len(fields) != (3 if matched else 4) or (not matched and fields[0] == fields[2]):
        return None
    other = (fields[0], fields[2]) if matched else (fields[2], fields[3])
    a, b = _image(fields[0], fields[1], extension), _image(*other, extension)
    return (a, b) if a and b and a != b else None


def _image(person: str, number: str, extension: str) -> str | None:
    if _PERSON.fullmatch(person) and _NUMBER.fullmatch(number):
        return f"{person}/{person}_{int(number):04d}{extension}"
    return None
