"""How a store keeps its encoded faces: each in a file of its own, or those of a job in an uncompressed tar file.

A tar file `faces/NAME.tar` is a POSIX archive with a member `<key>.png` or `<key>.jpg` for each face, in the order they
were appended. Any `tar` unpacks it, to the very files of a store that keeps one file a face, and WebDataset streams it.
The manifest says where in it each picture lies; members that it does not name any more are made hidden zeros.

What is written is the system's at once, so that it outlives this process, and never half of it counts.
"""

import os
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from facegm.data.files import replace_atomically
from facegm.data.names import unescaped
from facegm.store.format import FACES_FOLDER, SUFFIXES, StoreFormat, numbers_of

_BLOCK = tarfile.BLOCKSIZE
_REMOVED = ".removed"
"""Name of the members that stand where faces were taken out."""
_LARGEST_REMOVED = 2**26
"""Their size in bytes, with the header."""


class Place(NamedTuple):
    """Where an encoded face lies."""

    path: str
    offset: int
    length: int
    """Bytes; -1 where that is not known, for all of a file."""

    def read(self) -> bytes:
        """Read the encoded face, as it is.

        Raises:
            OSError: it is not there.
        """
        with open(self.path, "rb", buffering=0) as file:
            return file.read() if self.length < 0 else os.pread(file.fileno(), self.length, self.offset)

    def is_whole(self) -> bool:
        """Whether the file is as long as it should be, without a look into it."""
        try:
            return os.stat(self.path).st_size >= self.offset + self.length
        except OSError:
            return False


def place_of(folder: Path, store_format: StoreFormat, key: str, part: str | None, offset: int, length: int) -> Place:
    """Where the face of a photo lies in a store; the photo's own suffix is kept, so that names never collide.

    Args:
        folder: the store.
        store_format: how it keeps its faces.
        key: the photo's.
        part: the tar file's name; None for a file of its own.
        offset: of the picture's first byte there.
        length: number of its bytes, or -1.
    """
    name = key + SUFFIXES[store_format.encoding] if part is None else f"{part}.tar"
    return Place(f"{folder}/{FACES_FOLDER}/{name}", offset, length)


class FolderWriter:
    """Takes encoded faces one after the other, in one process at a time, and keeps each in a file of its own."""

    def __init__(self, folder: Path, store_format: StoreFormat) -> None:
        self._folder, self._format = folder, store_format

    def append(self, key: str, data: bytes) -> tuple[None, int]:
        """Keep an encoded face; returns its part, of which there is none, and its offset."""
        path = self._path(key)
        try:
            replace_atomically(path, data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_atomically(path, data)
        return None, 0

    def finish(self) -> None:
        """Nothing to do."""

    def discard(self, gone: Iterable[str], left: pa.Table) -> None:  # noqa: ARG002
        """Delete faces that do not count any more, and folders in which nothing is left.

        Args:
            gone: keys of photos that had a face once, and have none now.
            left: key, part, offset and length of the faces that count.
        """
        for key in gone:
            path = self._path(key)
            path.unlink(missing_ok=True)
            with suppress(OSError):  # where something is left
                os.removedirs(path.parent)

    def _path(self, key: str) -> Path:
        return Path(place_of(self._folder, self._format, key, None, 0, -1).path)


class TarWriter:
    """Does as `FolderWriter`, but keeps all faces of a job in a tar file.

    Args:
        folder: the store.
        store_format: how it keeps its faces.
        part: name of the tar file.
        end: the byte at which the last face that counts ends; what follows is as good as never written.
    """

    def __init__(self, folder: Path, store_format: StoreFormat, part: str, end: int) -> None:
        self._folder, self._suffix, self._part, self._end = folder, SUFFIXES[store_format.encoding], part, end
        path = folder / FACES_FOLDER / f"{part}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tar = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115

    def append(self, key: str, data: bytes) -> tuple[str, int]:
        """Keep an encoded face. Its member depends on key and bytes alone: no time, owner or number of a run."""
        head = _header(key + self._suffix, len(data))
        offset = self._end + len(head)
        _write(self._tar.fileno(), self._end, head + data + bytes(-len(data) % _BLOCK))
        self._end = offset + len(data) + -len(data) % _BLOCK
        return self._part, offset

    def finish(self) -> None:
        """End the archive as `tar` does, also after an error: a member that did not fit on the disk is cut off."""
        with self._tar:
            _end_archive(self._tar, self._end)

    def discard(self, gone: Iterable[str], left: pa.Table) -> None:  # noqa: ARG002
        """Overwrite what lies between the faces that count, in the tar files of all jobs, and cut off what follows."""
        for path in sorted((self._folder / FACES_FOLDER).glob("*.tar")):
            members = left.filter(pc.equal(left["part"], path.stem)).sort_by("offset")
            offsets, lengths = numbers_of(members, "offset"), numbers_of(members, "length")
            starts = np.concatenate([[0], member_ends(offsets, lengths)])
            with path.open("r+b", buffering=0) as tar:
                # Where a picture does not begin one block after the member before, its header is long or there is a gap
                for number in np.flatnonzero(offsets - _BLOCK != starts[:-1]).tolist():
                    name = unescaped(members["key"][number].as_py()) + self._suffix
                    end = int(offsets[number]) - len(_header(name, int(lengths[number])))
                    for start in range(int(starts[number]), end, _LARGEST_REMOVED):
                        _blank(tar.fileno(), start, min(start + _LARGEST_REMOVED, end))
                _end_archive(tar, int(starts[-1]))


FaceWriter = FolderWriter | TarWriter


def member_ends(
    offsets: Int64[np.ndarray, " faces"], lengths: Int64[np.ndarray, " faces"]
) -> Int64[np.ndarray, " faces"]:
    """Where the members after some pictures begin: tar files count in blocks."""
    return np.asarray(offsets + lengths + -lengths % _BLOCK)


def _end_archive(tar: FileIO, end: int) -> None:
    tar.truncate(end)
    _write(tar.fileno(), end, bytes(2 * _BLOCK + -(end + 2 * _BLOCK) % tarfile.RECORDSIZE))


def _blank(tar: int, start: int, end: int) -> None:
    head = _header(_REMOVED, end - start - _BLOCK)
    if os.pread(tar, _BLOCK, start) != head:
        _write(tar, start + _BLOCK, bytes(end - start - _BLOCK))
        _write(tar, start, head)


def _header(name: str, length: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = length
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _write(file: int, offset: int, data: bytes) -> None:
    # A system call may write less than it was given. A failed one leaves the place where it is for another try.
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
