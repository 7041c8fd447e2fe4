"""Verification sets as insightface packs them, such as `lfw.bin` and `cfp_fp.bin`: a pickle of pictures and labels.

The pickle is a pair: a list of 2n encoded images, each two of which are a pair, and a list of n booleans, True where
the pair shows one person (`recognition/common/lfw2pack.py` of insightface). Faces are RGB of 112x112 pixels, aligned.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from facegm.align.face import resize_aligned
from facegm.data.decoding import decode_photo
from facegm.data.readers.formats import START, is_picture
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.data.readers.pickles import Array, BadPickleError, load_pickle
from facegm.errors import FacegmError
from facegm.eval.sets.folds import FOLDS
from facegm.eval.sets.pairs import Pairs

_EXPECTED = "expected a pickle of (a list of encoded images, a list of booleans), as insightface's lfw2pack.py writes"


class PackedSet:
    """The pairs of a `.bin` file and their faces, which stay encoded until they are asked for.

    An image is called by its number in the file, from `0000000.jpg` on; one that occurs again, byte for byte, is called
    as where it occurs first. The folds are ten consecutive blocks of pairs as equal as can be, as insightface's
    (`KFold(n_splits=10, shuffle=False)`).

    Args:
        path: the file. Nothing in it is run: a pickle that asks for code is refused.

    Raises:
        FacegmError: the file cannot be read, is damaged, of another kind or dangerous; the numbers of images and labels
            do not fit; or an image is empty or no picture.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path
        images, same = _unpacked(path)
        first: dict[bytes, int] = {}
        numbers = [first.setdefault(image, number) for number, image in enumerate(images)]
        self.keys: Sequence[str] = tuple(_name(number) for number in first.values())
        """Names of all different images, by row."""
        self._images = tuple(first)
        names = [_name(number) for number in numbers]
        blocks = [len(block) for block in np.array_split(same, FOLDS)]
        self.pairs = Pairs(
            tuple(names[::2]),
            tuple(names[1::2]),
            same,
            np.repeat(np.arange(FOLDS), blocks),
            f"{FOLDS} consecutive blocks of pairs, as insightface's evaluation cuts them",
        )

    def read_face(self, row: int) -> UInt8[np.ndarray, "128 128 3"]:
        """Decode a face: RGB, 0 to 255, brought from insightface's size to this package's.

        Raises:
            FacegmError: the image is damaged, or not square.
        """
        try:
            return resize_aligned(decode_photo(self._images[row]))
        except (UnreadablePhotoError, ValueError) as error:
            raise FacegmError(f"{self.folder}: image {self.keys[row]}: {error}; copy or make the file again") from error


def _unpacked(path: Path) -> tuple[list[bytes], Bool[np.ndarray, " pairs"]]:
    try:
        content = load_pickle(path.read_bytes(), encoding="bytes")
        images, labels = _two_lists(content)
        same = np.array([_truth(label) for label in labels], bool)
        once: dict[bytes, bytes] = {}
        encoded = [once.setdefault(data, data) for data in map(_bytes, images, itertools.count())]
    except OSError as error:
        raise FacegmError(f"{path}: cannot be read: {error.strerror}") from error
    except BadPickleError as error:
        raise FacegmError(f"{path}: {error}; {_EXPECTED}") from error
    if not len(same) or len(encoded) != 2 * len(same):
        raise FacegmError(
            f"{path}: {len(encoded):,} images for {len(same):,} pairs, expected {2 * len(same):,}; copy it again"
        )
    bad = [number for number, image in enumerate(encoded) if not is_picture(image[:START])]
    if bad:
        reason = "empty" if not encoded[bad[0]] else f"no picture, it begins with {encoded[bad[0]][:8]!r}"
        raise FacegmError(f"{path}: {len(bad):,} of {len(encoded):,} images are unusable; number {bad[0]} is {reason}")
    return encoded, same


def _two_lists(content: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Images and labels, each not yet looked at."""
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise BadPickleError(f"a pickled {type(content).__name__}")
    images, labels = content
    if isinstance(labels, Array):
        labels = labels.booleans().ravel().tolist()
    for column, name in ((images, "images"), (labels, "booleans")):
        if not isinstance(column, tuple | list):
            raise BadPickleError(f"a {type(column).__name__} in place of the list of {name}")
    return images, labels


def _truth(label: object) -> bool:
    if isinstance(label, Array):
        values = label.booleans()
        label = bool(values) if values.size == 1 else None
    if not isinstance(label, int) or label not in (0, 1):
        raise BadPickleError(f"a {type(label).__name__} in the list of booleans")
    return bool(label)


def _bytes(image: object, number: int) -> bytes:
    if isinstance(image, Array):
        image = image.unsigned_bytes().tobytes()
    if not isinstance(image, bytes):
        raise BadPickleError(f"a {type(image).__name__} as image {number}")
    return image


def _name(number: int) -> str:
    return f"{number:07}.jpg"
