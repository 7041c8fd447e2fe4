"""Images in MXNet's RecordIO files, as insightface and im2rec pack them: `x.rec`, with its index in `x.idx`.

A record is a uint32 magic number, a uint32 with the kind of part in its upper 3 bits and the length in the others, the
data, and zeros up to a multiple of 4 bytes, all little-endian. Data that holds the magic number at a multiple of 4
bytes is split there into parts, and joined with the magic number again (`dmlc/recordio.h`). The data of an image begins
with a header: flag, label and two ids; where the flag is not 0, that many float32 labels follow
(`mxnet.recordio.unpack`).
"""

import io
import os
import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facegm.data.readers.photo import Photo, PhotoSource, UnreadablePhotoError
from facegm.errors import FacegmError

INDEX_SUFFIX = ".idx"
_RECORD_SUFFIX = ".rec"
_MAGIC = struct.pack("<I", 0xCED7230A)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_LABEL = struct.Struct("<f")
_INDEX_LINE = re.compile(rb"(\d{1,18})\t(\d{1,18})\s*")


class DamagedRecordError(FacegmError):
    """A record that breaks the format; the message is the reason alone."""


@dataclass(frozen=True)
class _Index:
    """Where records begin, by the order of their keys."""

    keys: np.ndarray
    """Ascending, each once."""
    offsets: np.ndarray
    """Bytes of the file."""

    def place(self, key: int) -> int | None:
        """The number of a key within the order; None where there is no such record."""
        place = int(np.searchsorted(self.keys, key))
        return place if place < len(self.keys) and self.keys[place] == key else None


def recognizes(source: Path) -> bool:
    """Whether a source is a RecordIO file."""
    return is_record_name(source.name) and source.is_file()


def is_record_name(name: str) -> bool:
    """Whether a file is a RecordIO file by its name; hidden ones, such as macOS leaves beside others, are none."""
    return name.endswith(_RECORD_SUFFIX) and not name.startswith(".")


def list_photos(source: Path, identity_level: int) -> PhotoSource:  # noqa: ARG001, labels are identities at any level
    """List the images of a RecordIO file, reading its index and the headers of its records alone.

    In insightface's files record 0 is no image: its first label is one more than the key of the last image, and what
    follows that one describes identities. Without such a record every record is an image.

    Raises:
        FacegmError: the index is missing, it or a record is damaged, or a label is no whole number.
    """
    index_file = source.with_suffix(INDEX_SUFFIX)
    if not index_file.is_file():
        raise FacegmError(f"{index_file}: missing; lay the index that was made together with {source.name} beside it")
    path, photos = str(source), []
    names: dict[int, str] = {}
    place = 0
    try:
        index = _read_index(index_file)
        with source.open("rb", buffering=512) as file:  # little more than the header is wanted of each record
            size = file.seek(0, os.SEEK_END)
            images = _image_places(file, size, index)
            for place in images:
                key, offset = int(index.keys[place]), int(index.offsets[place])
                label, end = _label_and_end(file, size, offset)
                # Padded, so that the order of the names is that of the numbers.
                identity = names.setdefault(label, f"{label:07}")
                name = f"{identity}/{key:09}.jpg"
                photos.append(Photo(path=path, key=name, identity=identity, offset=offset, length=end - offset))
    except DamagedRecordError as error:
        at = f"{source}, record {index.keys[place]} at byte {index.offsets[place]}"
        raise FacegmError(f"{at}: {error}; copy or make the file again") from error
    except OSError as error:
        raise FacegmError(f"{source}: cannot read this file or its index: {error.strerror}") from error
    return PhotoSource(photos=photos, remarks=())


def unpack_image(record: bytes) -> bytes:
    """Take the encoded image out of a record.

    Args:
        record: the bytes of the file from a photo's `offset` on, `length` of them.

    Raises:
        UnreadablePhotoError: the record breaks the format, or holds no image.
    """
    try:
        data, end = _read_record(io.BytesIO(record), len(record), 0, most=len(record))
        if end != len(record):
            raise DamagedRecordError(f"{end} bytes long, no longer {len(record)}")
        flag, _ = _flag_and_label(data)
        start = _HEADER.size + flag * _LABEL.size
        if start > len(data):
            raise DamagedRecordError(f"too short for its {flag} labels")
    except DamagedRecordError as error:
        raise UnreadablePhotoError(f"damaged record: {error}") from error
    if start == len(data):
        raise UnreadablePhotoError("empty record")
    return data[start:]


def _read_index(index: Path) -> _Index:
    keys, offsets = array("q"), array("q")
    with index.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            fields = _INDEX_LINE.fullmatch(line)
            if fields is None:
                raise FacegmError(f"{index}, line {number}: damaged; expected a record's key, a tab and its offset")
            keys.append(int(fields[1]))
            offsets.append(int(fields[2]))
    order = np.argsort(keys, kind="stable")
    ordered = np.asarray(keys)[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        number = int(order[twice + 1].min())
        raise FacegmError(f"{index}, line {number + 1}: record {keys[number]} is listed twice")
    return _Index(ordered, np.asarray(offsets)[order])


def _image_places(file: BinaryIO, size: int, index: _Index) -> range:
    """The records that are images, as numbers within the order of their keys."""
    first = index.place(0)
    if first is None:
        return range(len(index.keys))
    end = _end_in_header(file, size, int(index.offsets[first]))
    if end is None:
        return range(len(index.keys))
    ends = _possible_ends(end)
    if len(ends) > 1:
        end = _end_among_records(file, size, index, ends)
    given = index.keys[1:end]
    missing = np.flatnonzero(given != np.arange(1, 1 + len(given)))
    if len(given) < end - 1 or len(missing):
        lacking = int(missing[0]) + 1 if len(missing) else len(given) + 1
        raise DamagedRecordError(f"says that the images end before {end}, but the index lacks {lacking}")
    return range(1, end)


def _end_in_header(file: BinaryIO, size: int, offset: int) -> int | None:
    """The first label of record 0, if that is insightface's and no image."""
    if not _is_range(file, size, offset):
        return None
    return _label_and_end(file, size, offset)[0]


def _is_range(file: BinaryIO, size: int, offset: int) -> bool:
    """Whether a record is none of an image, but two labels that say where images begin and end."""
    ranges = _HEADER.size + 2 * _LABEL.size
    data, _ = _read_record(file, size, offset, most=ranges + 1)
    # An image that im2rec packed with two labels has the same flag, but more to it.
    return _flag_and_label(data)[0] == 2 and len(data) == ranges


def _possible_ends(end: int) -> range:
    """The whole numbers that a float32 label may have been rounded from; up to 2**24 it is none but itself."""
    spacing = int(max(1, np.spacing(np.float32(end))))
    close = [number for number in range(end - spacing, end + spacing + 1) if int(np.float32(number)) == end]
    return range(close[0], close[-1] + 1)


def _end_among_records(file: BinaryIO, size: int, index: _Index, ends: range) -> int:
    """Of the keys that may follow the last image, the one that begins what describes identities."""
    for key in ends:
        place = index.place(key)
        if place is not None and _is_range(file, size, int(index.offsets[place])):
            return key
    raise DamagedRecordError(f"says that the images end near {ends[0]}, but what should follow there is missing")


def _label_and_end(file: BinaryIO, size: int, offset: int) -> tuple[int, int]:
    """The first label of a record, and the byte of the file at which it ends."""
    data, end = _read_record(file, size, offset, most=_HEADER.size + _LABEL.size)
    return _whole(_flag_and_label(data)[1]), end


def _flag_and_label(data: bytes) -> tuple[int, float]:
    """The flag, which is the number of labels where it is not 0, and the first or only label."""
    if len(data) < _HEADER.size:
        raise DamagedRecordError("too short for an image's header")
    flag, label, _, _ = _HEADER.unpack_from(data)
    if flag > 0:
        if len(data) < _HEADER.size + _LABEL.size:
            raise DamagedRecordError(f"too short for its {flag} labels")
        (label,) = _LABEL.unpack_from(data, _HEADER.size)
    return flag, label


def _whole(label: float) -> int:
    if not label.is_integer() or label < 0:
        raise DamagedRecordError(f"label {label:g} is no whole number from 0 on")
    return int(label)


def _read_record(file: BinaryIO, size: int, offset: int, *, most: int) -> tuple[bytes, int]:
    """The first `most` bytes of a record's data, and the byte of the file at which all of it ends."""
    data = bytearray()
    for start, length in _parts(file, size, offset):
        if start > offset + _PART.size:
            data += _MAGIC
        file.seek(start)
        data += file.read(min(length, max(most - len(data), 0)))
        end = start + length
    return bytes(data[:most]), end


def _parts(file: BinaryIO, size: int, offset: int) -> Iterator[tuple[int, int]]:
    """The byte of the file at which the data of each part begins, and its length."""
    expected = (_WHOLE, _FIRST)
    kind = None
    while kind not in (_WHOLE, _LAST):
        start = offset + _PART.size
        if start > size:
            raise DamagedRecordError(f"the file ends before, at byte {size}")
        file.seek(offset)
        magic, kind_and_length = _PART.unpack(file.read(_PART.size))
        kind, length = divmod(kind_and_length, 1 << _LENGTH_BITS)
        if magic != _MAGIC:
            raise DamagedRecordError("no record begins here, its magic number is missing")
        if kind not in expected:
            raise DamagedRecordError("its parts do not follow each other as first, middle and last")
        if start + length > size:
            raise DamagedRecordError(f"{length} bytes long, but the file ends at byte {size}")
        yield start, length
        offset = start + length + -length % 4
        expected = (_MIDDLE, _LAST)
