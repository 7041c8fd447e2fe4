"""The demo's data set: synthetic photos in LFW's folder layout, and a list of pairs to verify."""

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facegm.data.files import replace_atomically
from facegm.data.progress import Progress
from facegm.demo.identity import draw_identity
from facegm.demo.photo import take_photo
from facegm.errors import FacegmError

JPEG_QUALITY = 95
"""Of the files; the photo's own, lower quality is already in its pixels."""


def write_photos(folder: Path, *, identities: range, photos_per_identity: int, seed: int) -> int:
    """Write synthetic photos as `folder/identity_0007/identity_0007_0003.jpg`, numbered from 1.

    A photo depends on the seed, its identity and its number alone. Files already there are left as they are,
    so an interrupted run goes on where it stopped.

    Args:
        folder: made if it is not there.
        identities: numbers of the identities; use disjoint ranges for training and test.
        photos_per_identity: photos of each.
        seed: 0 or more.

    Returns:
        How many photos were written, without those already there.
    """
    written = 0
    with Progress("photos", len(identities) * photos_per_identity, "photos") as progress:
        for index in identities:
            paths = {number: _photo_path(folder, index, number) for number in range(1, photos_per_identity + 1)}
            missing = {number: path for number, path in paths.items() if not path.exists()}
            if missing:
                identity = draw_identity(index, seed=seed)
                (folder / _name(index)).mkdir(parents=True, exist_ok=True)
            progress.update(len(paths) - len(missing))
            for number, path in missing.items():
                photo = take_photo(identity, np.random.default_rng([seed, index, number]))
                _write_jpeg(path, photo)
                progress.update(1)
            written += len(missing)
    return written


def write_pairs(
    path: Path, *, identities: range, photos_per_identity: int, folds: int, pairs_per_class: int, seed: int
) -> None:
    """Write a list of photo pairs as LFW's `pairs.txt`: drawn at random, no pair twice, no identity in two folds.

    The first line is `folds<TAB>pairs_per_class`. Then each fold has its matched pairs (`name<TAB>i<TAB>j`), and
    after them its mismatched ones (`name_a<TAB>i<TAB>name_b<TAB>j`).

    Args:
        path: the file to write.
        identities: numbers of the identities, as given to `write_photos`.
        photos_per_identity: photos of each.
        folds: into how many groups the identities are parted.
        pairs_per_class: matched pairs in each fold, and as many mismatched ones.
        seed: 0 or more.

    Raises:
        FacegmError: if a fold has too few identities or photos for that many different pairs.
    """
    generator = np.random.default_rng(seed)
    lines = [f"{folds}\t{pairs_per_class}"]
    for members in np.array_split(generator.permutation(identities), folds):
        names = [_name(int(index)) for index in sorted(members)]
        matched = len(names) * math.comb(photos_per_identity, 2)
        mismatched = math.comb(len(names), 2) * photos_per_identity**2
        if min(matched, mismatched) < pairs_per_class:
            raise FacegmError(
                f"{path}: a fold of {len(names)} identities with {photos_per_identity} photos each has only "
                f"{matched} matched and {mismatched} mismatched pairs, but {pairs_per_class} of each are asked for; "
                f"use more identities ({len(identities)} now), more photos, fewer folds ({folds} now) or fewer pairs"
            )
        numbers = range(1, photos_per_identity + 1)
        all_matched = itertools.product(names, itertools.combinations(numbers, 2))
        all_mismatched = itertools.product(itertools.combinations(names, 2), numbers, numbers)
        matched_lines = [f"{name}\t{i}\t{j}" for name, (i, j) in all_matched]
        mismatched_lines = [f"{name_a}\t{i}\t{name_b}\t{j}" for (name_a, name_b), i, j in all_mismatched]
        for candidates in (matched_lines, mismatched_lines):
            chosen = generator.choice(len(candidates), pairs_per_class, replace=False)
            lines += [candidates[position] for position in sorted(chosen)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name(index: int) -> str:
    return f"identity_{index:04d}"


def _photo_path(folder: Path, index: int, number: int) -> Path:
    return folder / _name(index) / f"{_name(index)}_{number:04d}.jpg"


def _write_jpeg(path: Path, photo: NDArray[np.uint8]) -> None:
    _, code = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    replace_atomically(path, code.tobytes())
