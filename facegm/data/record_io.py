"""The images in MXNet's RecordIO files, as insightface and im2rec pack them: `x.rec`, with its index in `x.idx`.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from facegm.errors import FacegmError

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """Where an image lies in a RecordIO file, and its label."""

    key: int
    """The record's number in the index."""
    label: int
    """The image's first label."""
    offset: int
    """Byte of the file at which the record begins, with its magic number."""
    length: int
    """Bytes from there to the end of the record's data."""


def is_record_name(name: str) -> bool:
    """Whether a file is a RecordIO file by its name; hidden ones, such as macOS leaves beside others, are none."""
    return name.endswith(_RECORD_SUFFIX) and not name.startswith(".")


def list_images(path: Path) -> list[ImageRecord]:
    """List the images of a RecordIO file by key, reading its index and the headers of its records alone.

    In insightface's files record 0 is no image: its first label is one more than the key of the last image, and what
    follows that one describes identities. Without such a record every record is an image.

    Raises:
        FacegmError: the index is missing, it or a record is damaged, or a label is no whole number.
    """
    index = path.with_suffix(".idx")
    if not index.is_file():
        raise FacegmError(f"{index}: missing; lay the index that was made together with {path.name} beside it")
    images = []
    key = 0
    try:
        offsets = _read_index(index)
        with path.open("rb", buffering=512) as file:  # little more than the header is wanted of each record
            size = file.seek(0, os.SEEK_END)
            for key in _image_keys(file, size, offsets):
                images.append(_image_record(file, size, key, offsets[key]))
    except DamagedRecordError as error:
        place = f"{path}, record {key} at byte {offsets[key]}"
        raise FacegmError(f"{place}: {error}; copy or make the file again") from error
    except OSError as error:
        raise FacegmError(f"{path}: cannot read this file or its index: {error.strerror}") from error
    return images


def unpack_image(record: bytes) -> bytes:
    """Take the encoded image out of a record.

    Args:
        record: the `length` bytes of the file from an `ImageRecord`'s `offset` on.

    Raises:
        DamagedRecordError: the record breaks the format.
    """
    data, end = _read_record(io.BytesIO(record), len(record), 0, most=len(record))
    if end != len(record):
        raise DamagedRecordError(f"{end} bytes long, no longer {len(record)}")
    flag, _ = _flag_and_label(data)
    start = _HEADER.size + flag * _LABEL.size
    if start > len(data):
        raise DamagedRecordError(f"too short for its {flag} labels")
    return data[start:]


def _read_index(index: Path) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for number, line in enumerate(index.read_bytes().splitlines(), start=1):
        fields = _INDEX_LINE.fullmatch(line)
        if fields is None:
            raise FacegmError(f"{index}, line {number}: damaged; expected a record's key, a tab and its offset")
        key = int(fields[1])
        if key in offsets:
            raise FacegmError(f"{index}, line {number}: record {key} is listed twice")
        offsets[key] = int(fields[2])
    return offsets


def _image_keys(file: BinaryIO, size: int, offsets: dict[int, int]) -> Sequence[int]:
    if 0 in offsets:
        ranges = _HEADER.size + 2 * _LABEL.size
        data, _ = _read_record(file, size, offsets[0], most=ranges + 1)
        flag, end = _flag_and_label(data)
        # An image that im2rec packed with two labels has the same flag, but more to it.
        if flag == 2 and len(data) == ranges:
            keys = range(1, _whole(end))
            missing = next((key for key in keys if key not in offsets), None)
            if missing is not None:
                raise DamagedRecordError(f"says that the images end before {keys.stop}, but the index lacks {missing}")
            return keys
    return sorted(offsets)


def _image_record(file: BinaryIO, size: int, key: int, offset: int) -> ImageRecord:
    data, end = _read_record(file, size, offset, most=_HEADER.size + _LABEL.size)
    _, label = _flag_and_label(data)
    return ImageRecord(key=key, label=_whole(label), offset=offset, length=end - offset)


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
