"""All sources of photos in one place: which reader takes one, and how a photo's bytes are read."""

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from facegm.data.readers import folder, listing, lmdb, record, tar
from facegm.data.readers.photo import Photo, PhotoSource, UnreadablePhotoError, read_file, read_range
from facegm.errors import FacegmError

__all__ = ["Photo", "PhotoSource", "UnreadablePhotoError", "find_photos", "in_order", "photo_stamp", "read_photo_bytes"]

Stamp = tuple[int, int]


class Reader(Protocol):
    """What a module of this package offers that reads one kind of source."""

    def recognizes(self, source: Path) -> bool:
        """Whether a source is of this kind."""

    def list_photos(self, source: Path, identity_level: int) -> PhotoSource:
        """List the photos of a source that is recognized, in any order; see `find_photos`."""


READERS: tuple[Reader, ...] = (lmdb, folder, record, tar, listing)
"""The first that recognizes a source reads it."""


def find_photos(source: Path, *, identity_level: int = 1) -> PhotoSource:
    """List the photos of a source.

    - A folder tree `.../identity/photo.jpg`. Photos are told by their suffix, others by their first bytes.
    - A list file with one photo a line: its path (relative to the list's folder, or absolute), and optionally behind a
      tab, a comma or a space the identity; or a CSV file whose header names its columns.
    - A tar file: a shard of a WebDataset, where what the sample's `.cls` or `.json` says is the identity.
    - `x.rec` with `x.idx` beside it, as insightface packs sets. The identity is the label.
    - An LMDB set, a file or a folder with `data.mdb`: images under paths, or under numbers together with a label.
    - A folder tree that holds tar files, or one record file or LMDB set, and no photos.

    Where nothing else tells the identity it is a folder of the photo, whatever lies above. A photo of a tree or list
    that lies in no folder has none; one in no folder of a tar file has the shard's name.

    Args:
        source: the folder or file.
        identity_level: the folder that is the identity, counted from the photo upwards; 1 is its own. Where a photo
            lies less deep, it is the highest folder that there is.

    Raises:
        FacegmError: the source is missing or damaged, holds no photo, or names a photo twice.
    """
    reader = next((reader for reader in READERS if reader.recognizes(source)), None)
    if reader is None:
        raise FacegmError(f"{source}: no such folder, list, tar, rec or LMDB file")
    found = reader.list_photos(source, identity_level)
    if not found.photos:
        raise FacegmError(
            f"{source}: no photo found; expected a folder tree identity/photo.jpg, a list file with one photo a line, "
            f"tar shards, a .rec file or an LMDB set{''.join(f'; {remark}' for remark in found.remarks)}"
        )
    photos = in_order(found.photos)
    for one, other in pairwise(photos):
        if one.key == other.key:
            raise FacegmError(f"{source}: {one.path} and {other.path} both hold {one.key}; rename one of them")
    return PhotoSource(photos=photos, remarks=found.remarks)


def in_order(photos: Iterable[Photo]) -> list[Photo]:
    """Sort photos by the bytes of their keys: the order of a store's manifest."""
    return sorted(photos, key=lambda photo: os.fsencode(photo.key))


def read_photo_bytes(photo: Photo) -> bytes:
    """Read a photo as it is encoded, wherever it lies.

    Raises:
        UnreadablePhotoError: the file is missing, empty or no regular file, or its record or entry is damaged.
    """
    if photo.entry is not None:
        return lmdb.read_entry(photo.path, photo.entry)
    if photo.offset is None or photo.length is None:
        return read_file(photo.path)
    if not photo.length:
        raise UnreadablePhotoError("empty, or not a regular file")
    data = read_range(photo.path, photo.offset, photo.length)
    return record.unpack_image(data) if record.is_record_name(os.path.basename(photo.path)) else data


def photo_stamp(photo: Photo, containers: dict[str, Stamp | None] | None = None) -> Stamp | None:
    """By what a change of a photo shows before it is read.

    Args:
        photo: the photo.
        containers: keeps the stamps of files that hold many photos from call to call; the caller makes it anew for each
            pass over the photos, so that it outlives no change.

    Returns:
        The size in bytes and the time of the last change in nanoseconds of the file that holds the photo; None where it
        is missing.
    """
    if photo.offset is None and photo.entry is None:
        return _stamp(photo.path)
    if containers is None:
        containers = {}
    if photo.path not in containers:
        containers[photo.path] = _stamp(photo.path if photo.entry is None else lmdb.data_file(photo.path))
    return containers[photo.path]


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
