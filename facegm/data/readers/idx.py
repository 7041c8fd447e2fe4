"""MNIST, and sets that are packed like it, in IDX files: images in one file, their labels in another.

An IDX file begins with two zeros, a byte for the kind of number (8: unsigned bytes) and one for how many dimensions;
for each dimension follows its size as a big-endian uint32, then the numbers, the last dimension varying fastest
(http://yann.lecun.com/exdb/mnist/). It may be compressed by gzip.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from facegm.data.readers.arrays import LabelledArrays, Part, find_together
from facegm.errors import FacegmError

_PLACES = ("", "MNIST/raw", "raw")
"""The folder itself, and where torchvision keeps the files."""
_PREFIX = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 8
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


class _DamagedIdxError(Exception):
    """A file that breaks the format; the message is the reason alone."""


def read_mnist(folder: Path, part: Part) -> LabelledArrays:
    """Read one part of MNIST, or of a set whose files have the same names.

    Args:
        folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each with or without `.gz`; or is one in which torchvision keeps them.
        part: the 60,000 images for training, or the 10,000 for testing.

    Returns:
        Images with one channel; the classes are named by their numbers, as many as the labels for training tell.

    Raises:
        FacegmError: a file is missing or damaged, or they do not belong together.
    """
    wanted = dict.fromkeys([(part, "images-idx3"), ("train", "labels-idx1"), (part, "labels-idx1")])
    layouts = [[_spellings(folder / place, *file) for file in wanted] for place in _PLACES]
    files = find_together(folder, layouts, "MNIST; lay train-images-idx3-ubyte.gz and its three companions there")
    images_file, train_labels_file, labels_file = files[0], files[1], files[-1]
    train_labels = _read(train_labels_file, dimensions=1)
    labels = _read(labels_file, dimensions=1)
    classes = int(train_labels.max()) + 1
    if labels.max() >= classes:
        raise FacegmError(
            f"{labels_file}: label {labels.max()}, but {train_labels_file.name} has none above {classes - 1}; "
            "lay files of one set there"
        )
    images = _read(images_file, dimensions=3, count=len(labels))
    names = tuple(str(number) for number in range(classes))
    return LabelledArrays(images=images[..., np.newaxis], labels=labels.astype(np.int64), classes=names)


def _spellings(place: Path, part: Part, content: str) -> list[Path]:
    """The paths that a file may have: as published, and as often unpacked."""
    published = f"{_PREFIX[part]}-{content}-ubyte"
    names = [published, published.replace("-idx", ".idx")]
    return [place / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]


def _read(path: Path, *, dimensions: int, count: int | None = None) -> UInt8[np.ndarray, "..."]:
    """The array that a file holds.

    Args:
        path: the file, compressed or not.
        dimensions: how many there have to be.
        count: how many images there have to be; None where any number is right.
    """
    try:
        with path.open("rb") as file:
            if file.peek(len(_GZIP)).startswith(_GZIP):
                with gzip.open(file) as content:
                    return _parse(content, dimensions, count)
            return _parse(file, dimensions, count)
    except (_DamagedIdxError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FacegmError(f"{path}: {error}; copy or download the file again") from error
    except OSError as error:
        raise FacegmError(f"{path}: cannot read this file: {error.strerror}; see to it or copy it again") from error


def _parse(file: BinaryIO | gzip.GzipFile, dimensions: int, count: int | None) -> UInt8[np.ndarray, "..."]:
    """The array that an opened file holds; see `_read`."""
    header = struct.Struct(f">HBB{dimensions}I")
    start = file.read(header.size)
    if len(start) < header.size:
        raise _DamagedIdxError("ends within its header")
    zeros, kind, said, *shape = header.unpack(start)
    if (zeros, kind, said) != (0, _UNSIGNED_BYTES, dimensions):
        raise _DamagedIdxError(f"begins with {start[:4].hex()} where 000008{dimensions:02} is expected")
    if count is not None and shape[0] != count:
        raise _DamagedIdxError(f"{shape[0]} images by its header, but the labels beside it are {count}")
    size = math.prod(shape)
    numbers = _read_up_to(file, size + 1)
    if size == 0 or len(numbers) != size:
        extent = " x ".join(map(str, shape))
        there = f"{len(numbers)} bytes" if len(numbers) < size else "more"
        raise _DamagedIdxError(f"holds {extent} numbers by its header, but {there} in truth")
    return np.frombuffer(numbers, np.uint8).reshape(shape)


def _read_up_to(file: BinaryIO | gzip.GzipFile, most: int) -> bytearray:
    """So many bytes, or all that are left; memory is taken for what is there, whatever a header claims."""
    data = bytearray()
    while len(data) < most and (chunk := file.read(min(_CHUNK, most - len(data)))):
        data += chunk
    return data
