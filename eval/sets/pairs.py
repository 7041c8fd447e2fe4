"""Verification pairs, and the one door to files of them."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from facegm.errors import FacegmError
from facegm.eval.sets.folds import People, assign_folds
from facegm.eval.sets.joining import stem
from facegm.eval.sets.pairs_lfw import has_header, is_headless, read_headed, read_headless
from facegm.eval.sets.pairs_list import read_list
from facegm.eval.sets.pairs_text import PairLines, read_lines, split_lines

GIVEN = "given with the pairs"
LFW_DIGEST = "2ec8a35d4e41577de6f863fec76fdb2b52f7b2c27609e3b799b0ad240b87ec64"
"""Digest of the 6,000 pairs of LFW's View 2."""


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
    """Cross-validation fold of every pair, counted from 0."""
    fold_origin: str = GIVEN
    """Where the folds come from, in words for readers: the pairs file itself, or a rule by which they were assigned."""

    def __post_init__(self) -> None:
        lengths = {len(self.names_a), len(self.names_b), len(self.same), len(self.fold)}
        if len(lengths) != 1:
            raise FacegmError(f"pairs: names_a, names_b, same and fold differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.names_a)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Every image that some pair names, once, sorted."""
        return tuple(sorted({*self.names_a, *self.names_b}))

    @cached_property
    def people(self) -> People | None:
        """Number of the person on each side of every pair.

        Known where the images lie in folders, and two images of a pair in one folder just where they show the same
        person, in all pairs; else None.
        """
        if any("/" not in name for name in chain(self.names_a, self.names_b)):
            return None
        folders_a, folders_b = ([name.rpartition("/")[0] for name in names] for names in (self.names_a, self.names_b))
        number = {folder: number for number, folder in enumerate(dict.fromkeys(chain(folders_a, folders_b)))}
        a, b = (np.array([number[folder] for folder in folders], np.int64) for folders in (folders_a, folders_b))
        return (a, b) if np.array_equal(a == b, self.same) else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, kinds and folds in their order; a photo's suffix makes no difference."""
        digest = hashlib.sha256()
        for a, b, same, fold in zip(self.names_a, self.names_b, self.same.tolist(), self.fold.tolist(), strict=True):
            digest.update(f"{stem(a)}\t{stem(b)}\t{int(same)}\t{fold}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def is_lfw(self) -> bool:
        """Whether these are the 6,000 pairs of LFW's View 2 in their ten folds, all of which its protocol scores."""
        return len(self) == 6000 and self.digest == LFW_DIGEST

    def require_folds(self, source: str) -> None:
        """See that there are folds of which a threshold can be chosen on some and tested on another.

        Args:
            source: what the pairs come from, for the message.

        Raises:
            FacegmError: there is one fold alone.
        """
        if len(np.unique(self.fold)) < 2:
            raise FacegmError(
                f"{source} has one fold, but the threshold of a fold's pairs is chosen on the others; "
                "give a file of several folds, such as LFW's pairs.txt"
            )


def read_pairs(path: Path, *, extension: str = ".jpg") -> Pairs:
    r"""Read a text file of pairs, whose format is told by its content; the pairs' order stays as the file has it.

    - LFW's `pairs.txt`. The first line is `folds<TAB>size` (`10<TAB>300`) or `size` alone for one fold
      (`pairsDevTest.txt`). Each fold then has `size` matched lines `name n m` followed by `size` mismatched lines
      `name n other m`. Image `n` of a person is `<name>/<name>_<n, four digits><extension>`.
    - The same lines in any order without such a header, also separated by commas.
    - Two paths and 1 or 0 (or true, false) on each line, and perhaps the fold's number: `path_a path_b 1`, or CSV with
      or without a first line that names `path_a`, `path_b`, `same` and perhaps `fold` (also `path1`, `image1`, `label`
      and the like) among any other columns, in any order. Paths are relative to the photos' folder, their suffix may
      be missing.

    Columns are separated by tabs where there are tabs, so that names may hold spaces. A byte-order mark and the line
    ends of Windows are passed over. Pairs without folds are given some, see `facegm.eval.sets.folds.assign_folds`.

    Args:
        path: the pairs file.
        extension: ending of the image names in LFW's format, dot included.

    Raises:
        FacegmError: the file cannot be read or is in no known format, a line is malformed, the number of lines is not
            the header's, or pairs of one kind are missing, in all the file or in a fold of it.
    """
    lines = read_lines(path)
    if has_header(lines):
        rows = read_headed(path, lines, extension)
    else:
        fields = split_lines(path, lines)
        rows = read_headless(path, fields, extension) if is_headless(fields) else read_list(path, fields)
    pairs = _with_folds(rows)
    for fold in np.unique(pairs.fold):
        same = pairs.same[pairs.fold == fold]
        if same.all() or not same.any():
            kind, other = ("matched", "mismatched") if same.all() else ("mismatched", "matched")
            place = "the file" if rows.fold is None else f"fold {rows.fold[pairs.fold.tolist().index(fold)]}"
            raise FacegmError(f"{path}: {place} holds {len(same)} {kind} and no {other} pairs; expected both kinds")
    return pairs


def _with_folds(rows: PairLines) -> Pairs:
    """The pairs of a file, whose folds are counted from 0, or assigned where it has none."""
    same = np.array(rows.same, bool)
    numbers = np.zeros(len(same), np.int64) if rows.fold is None else np.unique(rows.fold, return_inverse=True)[1]
    pairs = Pairs(tuple(rows.names_a), tuple(rows.names_b), same, numbers)
    if rows.fold is not None:
        return pairs
    fold, origin = assign_folds(same, pairs.people)
    return replace(pairs, fold=fold, fold_origin=origin)
