"""Faces in uncompressed tar files ("parts"), each with an index that says where in it each picture lies.

`NAME.tar` is a POSIX archive with a member `<key>.png` or `<key>.jpg` for each face, in the order they were appended.
Any `tar` unpacks it, to the very files of a store that keeps one file a face, and WebDataset streams it. `NAME.idx`
has one line of ASCII JSON for each member: `{"key":"Ann/1.jpg","offset":512,"length":18093}`, the place and number of
the picture's bytes. Where a key comes twice the later member counts, for `tar` as well as here.

A member is written before its line of the index, and that before its line of the manifest. So after a kill the manifest
says what counts: what follows the last recorded member is cut off, and a store that was interrupted and gone on with
ends with the bytes of one that was not.
"""

import errno
import json
import os
import tarfile
import weakref
from pathlib import Path
from typing import NamedTuple

from facegm.data.json_lines import read_json_lines

TAR_SUFFIX, INDEX_SUFFIX = ".tar", ".idx"


class Entry(NamedTuple):
    """One line of an index: a picture's key, and the place and number of its bytes in the tar file."""

    key: str
    offset: int
    length: int

    @property
    def member_end(self) -> int:
        """Where the next member begins: tar files count in blocks."""
        return self.offset + self.length + -self.length % tarfile.BLOCKSIZE

    def encode(self) -> bytes:
        """Pure ASCII: a key that is no valid UTF-8 comes back as it was."""
        return json.dumps(self._asdict(), separators=(",", ":")).encode("ascii") + b"\n"


class _Place(NamedTuple):
    tar: Path
    offset: int
    length: int


def find_places(folder: Path) -> dict[str, _Place]:
    """Where the faces of all parts lie, by key."""
    return {
        entry.key: _Place(index.with_suffix(TAR_SUFFIX), entry.offset, entry.length)
        for index in sorted(folder.glob(f"*{INDEX_SUFFIX}"))
        for entry in read_json_lines(index, Entry)
    }


class PackedFaces:
    """The faces of all parts in a folder, for reading; see `facegm.data.face_files.FaceReader`.

    Raises:
        FacegmError: an index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Read at once, not when first needed, so that forked workers share it.
        self._places = find_places(folder)
        self._tars: dict[Path, _SharedFile] = {}

    def __reduce__(self) -> tuple[type["PackedFaces"], tuple[Path]]:
        return type(self), (self._folder,)  # open files stay in their process

    def read(self, key: str) -> bytes:
        """Read one encoded face.

        Raises:
            OSError: there is none, or it cannot be read.
        """
        if key not in self._places:
            raise FileNotFoundError(errno.ENOENT, "not in any index", key)
        path, offset, length = self._places[key]
        tar = self._tars.get(path)
        if tar is None:
            tar = self._tars.setdefault(path, _SharedFile(path))
        return tar.read(offset, length)

    def place(self, key: str) -> str:
        """Name the part that holds a face, or the folder of all, and the key."""
        return f"{self._places[key].tar if key in self._places else self._folder}, {key}"


class _SharedFile:
    """An open file without a position of its own, so that threads and forked processes can share it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)
