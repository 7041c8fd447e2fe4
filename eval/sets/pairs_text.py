"""The lines of a pairs file, and the pairs that are made of them: what its formats share."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facegm.errors import FacegmError


class PairLines(NamedTuple):
    """The pairs of a file, column by column."""

    names_a: Sequence[str]
    names_b: Sequence[str]
    same: Sequence[bool]
    fold: Sequence[int] | None
    """As the file numbers them; None where it has none."""


class Line(NamedTuple):
    """A line that is not blank, split into its columns."""

    number: int
    """Counted from 1."""
    text: str
    fields: list[str]
    """Without spaces around them."""


def read_lines(path: Path) -> list[str]:
    """Read a text file's lines without their ends, and without blank ones at its end.

    Raises:
        FacegmError: it cannot be read, is no UTF-8 text, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FacegmError(f"{path}: cannot be read as lines of text: {error}") from error
    if "\0" in text:
        raise FacegmError(f"{path}: no text")
    # Not splitlines(): it also splits at characters that names may hold, such as U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FacegmError(f"{path}: empty")
    return lines


def split_lines(path: Path, lines: Sequence[str]) -> list[Line]:
    """Split lines at tabs, commas or spaces: the first of them that parts the first line into three columns.

    Args:
        path: of the file, for messages.
        lines: all lines, of which blank ones are passed over.

    Raises:
        FacegmError: quotes of a CSV file do not end.
    """
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    split: list[Line] = []
    number, line = numbered[0]
    try:
        separator = next((mark for mark in "\t," if len(_fields(line, mark)) > 2), None)
        for number, line in numbered:
            split.append(Line(number, line, _fields(line, separator)))
    except csv.Error as error:
        raise FacegmError(f"{path}, line {number}: not CSV ({error}), found {line[:80]!r}") from error
    return split


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [
        field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
    ]
