"""Verification pairs, and the reader of LFW's `pairs.txt`."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from facegm.errors import FacegmError

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_PERSON = re.compile(r"[^\s/\\]*[^\s/\\.][^\s/\\]*")  # one folder name: no separator, neither `.` nor `..`
_MATCHED = "a matched pair `name<TAB>number<TAB>number`"
_MISMATCHED = "a mismatched pair `name<TAB>number<TAB>other name<TAB>number`"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images, whether each shows one person, and the fold that each belongs to.

    Raises:
        FacegmError: the four columns differ in length.
    """

    names_a: tuple[str, ...]
    """Left image of every pair: a relative POSIX path such as `Aaron_Eckhart/Aaron_Eckhart_0001.jpg`."""
    names_b: tuple[str, ...]
    """Right image of every pair."""
    same: Bool[np.ndarray, " pairs"]
    """True where both images show the same person."""
    fold: Int[np.ndarray, " pairs"]
    """Cross-validation fold of every pair, counted from 0, as the pairs file gives it."""

    def __post_init__(self) -> None:
        lengths = {len(self.names_a), len(self.names_b), len(self.same), len(self.fold)}
        if len(lengths) != 1:
            raise FacegmError(f"pairs: names_a, names_b, same and fold differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.names_a)

    @property
    def images(self) -> tuple[str, ...]:
        """Every image that some pair names, once, sorted."""
        return tuple(sorted({*self.names_a, *self.names_b}))

    @property
    def people(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]] | None:
        """Number of the person on the left and on the right of every pair, by the images' folders.

        None where these say otherwise than `same` in some pair, and so are no names of people.
        """
        folders = [name.rpartition("/")[0] for name in (*self.names_a, *self.names_b)]
        a, b = np.unique(folders, return_inverse=True)[1].reshape(2, -1)
        return (a, b) if np.array_equal(a == b, self.same) else None


def read_pairs(path: Path, *, extension: str = ".jpg") -> Pairs:
    r"""Read a pairs file in LFW's format; folds and order stay exactly as the file has them.

    The first line is `folds<TAB>size` (`10<TAB>300` in `pairs.txt`) or `size` alone for one fold (`pairsDevTest.txt`).
    Each fold then has `size` matched lines `name n m` followed by `size` mismatched lines `name n other m`.
    Image `n` of a person is `<name>/<name>_<n, four digits><extension>`.

    Args:
        path: the pairs file.
        extension: ending of the image names, dot included.

    Raises:
        FacegmError: the file cannot be read, a line is malformed, or the number of lines is not the header's.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FacegmError(f"{path}: cannot be read as a pairs file: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    folds, size = _header(path, lines[0] if lines else "")
    names_a, names_b = [], []
    for row, line in enumerate(lines[1 : 1 + 2 * folds * size]):
        matched = row % (2 * size) < size
        pair = _matched(line, extension) if matched else _mismatched(line, extension)
        if pair is None:
            expected = _MATCHED if matched else _MISMATCHED
            place = f"number {row % size + 1} of {size} in fold {row // (2 * size) + 1}"
            raise FacegmError(f"{path}, line {row + 2}: expected {expected} ({place}), found {line[:80]!r}")
        names_a.append(pair[0])
        names_b.append(pair[1])
    if len(lines) - 1 != 2 * folds * size:
        raise FacegmError(
            f"{path}, line 1: the header promises {folds} folds of {size} matched and {size} mismatched pairs, "
            f"so expected {2 * folds * size} lines after it, found {len(lines) - 1}"
        )
    row_number = np.arange(len(names_a))
    return Pairs(tuple(names_a), tuple(names_b), row_number % (2 * size) < size, row_number // (2 * size))


def _header(path: Path, line: str) -> tuple[int, int]:
    fields = line.split()
    if len(fields) not in (1, 2) or not all(_NUMBER.fullmatch(field) for field in fields):
        raise FacegmError(
            f"{path}, line 1: expected `folds<TAB>pairs of each kind`, as in `10<TAB>300`, or one number, "
            f"found {line[:80]!r}"
        )
    return (int(fields[0]) if len(fields) == 2 else 1), int(fields[-1])


def _image(person: str, number: str, extension: str) -> str | None:
    if _PERSON.fullmatch(person) and _NUMBER.fullmatch(number):
        return f"{person}/{person}_{int(number):04d}{extension}"
    return None


def _matched(line: str, extension: str) -> tuple[str, str] | None:
    """Both images of `name n m`; None unless they are two different images."""
    fields = line.split()
    if len(fields) != 3:
        return None
    a, b = (_image(fields[0], number, extension) for number in fields[1:])
    return (a, b) if a and b and a != b else None


def _mismatched(line: str, extension: str) -> tuple[str, str] | None:
    """Both images of `name n other m`; None unless they are two different people."""
    fields = line.split()
    if len(fields) != 4 or fields[0] == fields[2]:
        return None
    a, b = (_image(fields[i], fields[i + 1], extension) for i in (0, 2))
    return (a, b) if a and b else None
