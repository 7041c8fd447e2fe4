"""What a reader of packed images gives: all images of one part of a set, with labels and the names of the classes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from facegm.errors import FacegmError

Part = Literal["train", "test"]


class NoSuchSetError(FacegmError):
    """A folder holds no file of the set that is looked for, and so perhaps another one."""


class LabelledArrays(NamedTuple):
    """The images of one part of a set, in the order of its files."""

    images: UInt8[np.ndarray, "samples height width channels"]
    """RGB, or gray with one channel; 0 to 255."""
    labels: Int64[np.ndarray, " samples"]
    """For each image the number of its class, from 0 on."""
    classes: tuple[str, ...]
    """The names of all classes, by number; the same for every part."""


def find_together(folder: Path, layouts: Iterable[Sequence[Sequence[Path]]], what: str) -> list[Path]:
    """The files of the first layout that is complete.

    Args:
        folder: what the user named, to be told where nothing is found.
        layouts: for each the files that are wanted, each with the paths that it may have, within one folder.
        what: the set, and how to come by it, for the same purpose.

    Raises:
        NoSuchSetError: no layout has any of its files.
        FacegmError: those that have some lack others.
    """
    lacking: list[Path] = []
    for files in layouts:
        found = [next(filter(os.path.isfile, paths), None) for paths in files]
        there = [path for path in found if path is not None]
        if len(there) == len(files):
            return there
        if there and not lacking:
            lacking = [paths[0] for paths, path in zip(files, found, strict=True) if path is None]
    if lacking:
        names = ", ".join(path.name for path in lacking)
        raise FacegmError(f"{lacking[0].parent}: {names} missing; lay there what belongs to the files that are there")
    raise NoSuchSetError(f"{folder}: no files of {what}")
