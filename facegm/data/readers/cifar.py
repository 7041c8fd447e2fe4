"""CIFAR-10 and CIFAR-100 as they are published (https://www.cs.toronto.edu/~kriz/cifar.html), in two layouts.

In the binary one a record is the label, for CIFAR-100 the number of the superclass before it, a byte each, and 3072
bytes: the red, green and blue plane of 32 x 32 pixels, row by row. In the Python one a file is a pickled dictionary,
whose `data` is a uint8 array with such 3072 bytes a row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from facegm.data.readers.arrays import LabelledArrays, Part, find_together
from facegm.data.readers.pickles import Array, BadPickleError, load_pickle
from facegm.errors import FacegmError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class _Set:
    """How the files of a set are named, and what is in them."""

    binary_folder: str
    python_folder: str
    files: dict[Part, list[str]]
    """Without the suffix that they have in the binary layout."""
    binary_names: str
    python_names: str
    """The files that name the classes."""
    names_key: str
    labels_key: str
    limits: tuple[int, ...]
    """How many values each byte before an image's pixels can have; the last of them is its label."""
    classes: tuple[str, ...]
    """Their names where no file tells them."""


_Batch = tuple[UInt8[np.ndarray, "samples pixels"], Int64[np.ndarray, " samples"]]


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_SETS = {
    "cifar10": _Set(
        binary_folder="cifar-10-batches-bin",
        python_folder="cifar-10-batches-py",
        files={"train": _BATCHES, "test": ["test_batch"]},
        binary_names="batches.meta.txt",
        python_names="batches.meta",
        names_key="label_names",
        labels_key="labels",
        limits=(10,),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": _Set(
        binary_folder="cifar-100-binary",
        python_folder="cifar-100-python",
        files={"train": ["train"], "test": ["test"]},
        binary_names="fine_label_names.txt",
        python_names="meta",
        names_key="fine_label_names",
        labels_key="fine_labels",
        limits=(20, 100),
        classes=tuple(str(number) for number in range(100)),
    ),
}


def read_cifar(folder: Path, name: Literal["cifar10", "cifar100"], part: Part) -> LabelledArrays:
    """Read one part of CIFAR-10, or of CIFAR-100 with its fine labels.

    Args:
        folder: holds the files of the binary layout or of the Python one, or the folder that their archive unpacks to.
        name: which of the two sets.
        part: the 50,000 images for training, or the 10,000 for testing; files that hold fewer are taken as they are.

    Raises:
        FacegmError: a file is missing or damaged.
    """
    described = _SETS[name]
    places = [(folder, ".bin"), (folder / described.binary_folder, ".bin")]
    places += [(folder, ""), (folder / described.python_folder, "")]
    layouts = [[[place / f"{file}{suffix}"] for file in described.files[part]] for place, suffix in places]
    wanted = f"{name}; lay {described.binary_folder} or {described.python_folder} there, as their archives unpack to"
    files = find_together(folder, layouts, wanted)
    if files[0].suffix:
        classes = _named_in_text(files[0].with_name(described.binary_names), described)
        batches = [_read_binary(file, described) for file in files]
    else:
        classes = _named_in_pickle(files[0].with_name(described.python_names), described)
        batches = [_read_pickle(file, described) for file in files]
    planes = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, _SIDE, _SIDE)
    return LabelledArrays(
        images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        labels=np.concatenate([labels for _, labels in batches]),
        classes=classes,
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FacegmError(f"{path}: cannot read this file: {error.strerror}; see to it or {_AGAIN}") from error


def _checked(path: Path, labels: Int64[np.ndarray, " samples"], limit: int) -> Int64[np.ndarray, " samples"]:
    beyond = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(beyond):
        raise FacegmError(f"{path}: image {beyond[0]} has label {labels[beyond[0]]}, not 0 to {limit - 1}; {_AGAIN}")
    return labels


def _checked_names(path: Path, names: list[str], described: _Set) -> tuple[str, ...]:
    expected = described.limits[-1]
    if len(names) != expected or len(set(names)) != expected:
        raise FacegmError(
            f"{path}: {len(set(names))} different names of classes, not {expected}; {_AGAIN}, or remove it"
        )
    return tuple(names)


# ------------------------------------------------------------------------------------------------- binary layout


def _named_in_text(path: Path, described: _Set) -> tuple[str, ...]:
    if not path.is_file():
        return described.classes
    try:
        lines = _content(path).decode().splitlines()
    except UnicodeDecodeError:
        raise FacegmError(f"{path}: no text; {_AGAIN}, or remove it") from None
    return _checked_names(path, [line.strip() for line in lines if line.strip()], described)


def _read_binary(path: Path, described: _Set) -> _Batch:
    content = np.frombuffer(_content(path), np.uint8)
    head = len(described.limits)
    if not len(content) or len(content) % (head + _PIXELS):
        raise FacegmError(
            f"{path}: {len(content)} bytes are no whole number of records of {head + _PIXELS}; the file is cut off, or "
            f"of another set; {_AGAIN}"
        )
    records = content.reshape(-1, head + _PIXELS)
    for column, limit in enumerate(described.limits):
        labels = _checked(path, records[:, column].astype(np.int64), limit)
    return records[:, head:], labels


# ------------------------------------------------------------------------------------------------- Python layout


def _entries(path: Path) -> dict[Any, Any]:
    """The dictionary that a file holds, by keys that are text."""
    entries = load_pickle(_content(path), encoding="bytes")
    if not isinstance(entries, dict):
        raise BadPickleError(f"a pickled {type(entries).__name__} where a dictionary should be")
    return {_decoded(key): value for key, value in entries.items()}


def _decoded(value: object) -> object:
    """Text, also where Python 2 has written it."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _named_in_pickle(path: Path, described: _Set) -> tuple[str, ...]:
    if not path.is_file():
        return described.classes
    try:
        names = _entries(path).get(described.names_key)
    except BadPickleError as error:
        raise FacegmError(f"{path}: {error}; {_AGAIN}, or remove it") from error
    listed = [_decoded(name) for name in names] if isinstance(names, list) else []
    return _checked_names(path, [name for name in listed if isinstance(name, str)], described)


def _read_pickle(path: Path, described: _Set) -> _Batch:
    try:
        entries = _entries(path)
        data, labels = entries.get("data"), entries.get(described.labels_key)
        if not isinstance(data, Array):
            raise BadPickleError("no array as its data")
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
            raise BadPickleError(f"no list of small whole numbers as its {described.labels_key}")
        pixels = data.unsigned_bytes()
        if not labels or pixels.shape != (len(labels), _PIXELS):
            raise BadPickleError(f"data of shape {pixels.shape} for {len(labels)} images of {_PIXELS} bytes")
    except BadPickleError as error:
        raise FacegmError(f"{path}: {error}; {_AGAIN}") from error
    return pixels, _checked(path, np.array(labels, np.int64), described.limits[-1])
