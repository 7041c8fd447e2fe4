"""Appends faces to a tar file of `facegm.data.packed_faces`, so that a kill loses no recorded one."""

import fcntl
import os
import tarfile
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from facegm.data.files import replace_atomically
from facegm.data.json_lines import read_json_lines
from facegm.data.packed_faces import INDEX_SUFFIX, TAR_SUFFIX, Entry, find_places
from facegm.errors import FacegmError


class PackedWriter:
    """Appends faces to one part; see `facegm.data.face_files.FaceWriter`.

    Args:
        folder: the folder of all parts, made when missing.
        part: name of this part.
        suffix: what follows the keys in the members' names.
        recorded: the keys whose pictures count; members after the last of them are cut off.

    Raises:
        FacegmError: the index is damaged or missing, or another process is writing this part.
    """

    def __init__(self, folder: Path, part: str, suffix: str, recorded: Collection[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tar, index = folder / (part + TAR_SUFFIX), folder / (part + INDEX_SUFFIX)
        self._suffix = suffix
        with ExitStack() as opened:
            self._tar = opened.enter_context(_open(tar))
            try:
                fcntl.flock(self._tar, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FacegmError(f"{tar}: another process is writing it; wait for its end") from error
            size = tar.stat().st_size
            if size and not index.is_file():
                raise FacegmError(f"{index}: missing; bring it back, or delete the store and align again")
            entries = _recorded_entries(index, size, frozenset(recorded))
            content = b"".join(entry.encode() for entry in entries)
            if not index.is_file() or index.read_bytes() != content:
                replace_atomically(index, content)
            self._index = opened.enter_context(_open(index))
            self._tar_end, self._index_end = entries[-1].member_end if entries else 0, len(content)
            self._tar.truncate(self._tar_end)
            self.lost = frozenset(recorded) - find_places(folder).keys()
            self._opened = opened.pop_all()

    def append(self, key: str, data: bytes) -> None:
        """Keep one encoded face. Its member depends on key and bytes alone: no time, owner or number of a run."""
        header = tarfile.TarInfo(key + self._suffix)
        header.size = len(data)
        head = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        entry = Entry(key, self._tar_end + len(head), len(data))
        line = entry.encode()
        _write(self._tar, self._tar_end, head + data + bytes(entry.member_end - entry.offset - entry.length))
        _write(self._index, self._index_end, line)
        self._tar_end, self._index_end = entry.member_end, self._index_end + len(line)

    def close(self) -> None:
        """End the archive as `tar` does, also after an error: a member that did not fit on the disk is cut off."""
        with self._opened:
            self._index.truncate(self._index_end)
            self._tar.truncate(self._tar_end)
            padded = self._tar_end + 2 * tarfile.BLOCKSIZE
            padded += -padded % tarfile.RECORDSIZE
            _write(self._tar, self._tar_end, bytes(padded - self._tar_end))


def _recorded_entries(index: Path, tar_size: int, recorded: frozenset[str]) -> list[Entry]:
    """The entries up to the last recorded one, as far as the tar file holds their pictures."""
    entries = [entry for entry in read_json_lines(index, Entry) if entry.offset + entry.length <= tar_size]
    while entries and entries[-1].key not in recorded:
        entries.pop()
    return entries


def _open(path: Path) -> BinaryIO:
    """Open a file for reading and writing without a buffer, made when missing."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def _write(file: BinaryIO, offset: int, data: bytes) -> None:
    # A system call may write less than it was given. A failed one leaves the place where it is for another try.
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written
