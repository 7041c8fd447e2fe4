"""LMDB sets of faces, as tools for training on synthetic faces and `folder2lmdb` write them.

Known are images under their paths (`Ann/1.jpg`), and under any key a pair of image and label, or image, features and
label, as msgpack or pickle writes them; entries such as `__keys__` and `__len__` describe the set and are passed over.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from facegm.data.readers.formats import START, is_photo_name, is_picture, passed_over, suffix_of
from facegm.data.readers.identities import Identities
from facegm.data.readers.photo import Photo, PhotoSource, UnreadablePhotoError
from facegm.data.readers.serialized import NotAPairError, label_of, unpack_pair
from facegm.errors import FacegmError

DATA_FILE, LOCK_FILE = "data.mdb", "lock.mdb"
_SUFFIXES = (".lmdb", ".mdb")
_FIRST = 16
"""Entries by which the kind of a set is told."""


def recognizes(source: Path) -> bool:
    """Whether a source is an LMDB set: a folder with a `data.mdb`, or a file by its suffix."""
    return (source / DATA_FILE).is_file() or (is_set_name(source.name) and source.is_file())


def is_set_name(name: str) -> bool:
    """Whether a file is taken for an LMDB set by its name."""
    return name.lower().endswith(_SUFFIXES) and name != LOCK_FILE and not name.startswith(".")


def data_file(path: str) -> str:
    """The file in which a set's entries lie."""
    return os.path.join(path, DATA_FILE) if os.path.isdir(path) else path


def list_photos(source: Path, identity_level: int) -> PhotoSource:
    """List the images of a set, reading of each no more than tells what it is.

    Raises:
        FacegmError: the set is damaged or of an unknown kind, or the package lmdb is missing.
    """
    path = str(source)
    with _opened.transaction(path) as transaction:
        if _holds_pairs(source, transaction):
            return PhotoSource(photos=list(_labelled(source, transaction)), remarks=())
        identities, others = Identities(identity_level), Counter[str]()
        photos = []
        with transaction.cursor() as cursor:
            for entry in cursor.iternext(keys=True, values=False):
                name = _name(bytes(entry))
                if is_photo_name(name) or is_picture(bytes(cursor.value()[:START]), name):
                    photos.append(Photo(path=path, key=name, identity=identities.of(name), entry=bytes(entry)))
                elif not _describes(bytes(entry)):
                    others[suffix_of(name)] += 1
    remarks = identities.doubts()
    if others:
        remarks.append(passed_over(others))
    return PhotoSource(photos=photos, remarks=tuple(remarks))


def read_entry(path: str, entry: bytes) -> bytes:
    """Read an image of a set.

    Raises:
        UnreadablePhotoError: the set or the entry is missing or damaged.
    """
    try:
        with _opened.transaction(path) as transaction:
            found = transaction.get(entry)
            value = None if found is None else bytes(found)
    except FacegmError as error:
        raise UnreadablePhotoError(str(error)) from error
    if value is None:
        raise UnreadablePhotoError("no longer in the LMDB set")
    if not value:
        raise UnreadablePhotoError("empty entry")
    if is_picture(value[:START]):
        return value
    try:
        return unpack_pair(value)[0]
    except NotAPairError:
        return value  # an image as damaged as that is named by the decoder


def _holds_pairs(source: Path, transaction: Any) -> bool:
    """Whether a set holds pairs of image and label, or images."""
    seen = []
    with transaction.cursor() as cursor:
        for entry, value in cursor:
            if _describes(bytes(entry)):
                continue
            if is_picture(bytes(value[:START])):
                return False
            try:
                label_of(value)
            except NotAPairError as error:
                seen.append(f"{_name(bytes(entry))!r}: {len(value):,} bytes from {bytes(value[:8])!r} on, {error}")
            else:
                return True
            if len(seen) == _FIRST:
                break
    found = "no entry" if not seen else f"first {'; '.join(seen[:2])}"
    raise FacegmError(
        f"{source}: an LMDB set of a kind that is not known ({found}); expected images under their paths, or pairs of "
        "image and label by msgpack or pickle; write the images to a folder identity/photo.jpg"
    )


def _labelled(source: Path, transaction: Any) -> Iterator[Photo]:
    path = str(source)
    names: dict[int | str, str] = {}
    with transaction.cursor() as cursor:
        for found, value in cursor:
            entry = bytes(found)
            if _describes(entry):
                continue
            try:
                label = label_of(value)
            except NotAPairError as error:
                raise FacegmError(f"{source}, entry {_name(entry)!r}: damaged: {error}; make the set again") from error
            if label not in names:
                # Padded, so that the order of the names is that of the numbers.
                names[label] = f"{label:07}" if isinstance(label, int) else _name(label.encode())
            number = entry.decode() if entry.isdigit() else ""
            name = f"{int(number):09}.jpg" if number else _name(entry)
            yield Photo(path=path, key=f"{names[label]}/{name}", identity=names[label], entry=entry)


def _describes(entry: bytes) -> bool:
    """Whether an entry is none of the images by its name, such as `__len__`."""
    return entry.startswith(b"__") and entry.endswith(b"__")


def _name(entry: bytes) -> str:
    """An entry's key as a relative path that leads nowhere else, in characters that names of files may have."""
    if b"\0" in entry:
        return entry.hex()
    return os.path.normpath("/" + os.fsdecode(entry)).lstrip("/")


class _OpenSets:
    """The sets that this process has open: LMDB allows no second time, and each is reopened when its file changes.

    A forked process goes on with those of its parent, which is sound as nothing is locked or written.
    """

    def __init__(self) -> None:
        self._sets: dict[str, tuple[object, Any]] = {}
        self._lock, self._process = threading.Lock(), os.getpid()

    @contextmanager
    def transaction(self, path: str) -> Iterator[Any]:
        """Read a set, one thread at a time.

        Raises:
            FacegmError: the set is missing, damaged, cut off, or the package lmdb is.
        """
        if self._process != os.getpid():  # a thread of the parent may have held the lock
            self._lock, self._process = threading.Lock(), os.getpid()
        if find_spec("lmdb") is None:
            raise FacegmError(f'{path}: an LMDB set; to read it: pip install "facegm[lmdb]"')
        import lmdb

        try:
            with self._lock, self._open(path).begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise FacegmError(f"{path}: not an LMDB set, or damaged: {error}; copy or make it again") from error

    def _open(self, path: str) -> Any:
        import lmdb

        try:
            status = os.stat(data_file(path))
            state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            known = self._sets.get(path)
            if known is not None and known[0] == state:
                return known[1]
            if known is not None:
                known[1].close()
                del self._sets[path]
            opened = lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False)
        except OSError as error:
            raise FacegmError(f"{path}: cannot read this LMDB set: {error.strerror}") from error
        # Pages that the file lacks would end the process with a bus error.
        expected = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if status.st_size < expected:
            opened.close()
            raise FacegmError(
                f"{path}: cut off: {status.st_size:,} of {expected:,} bytes; copy it again, or compact the original "
                "by mdb_copy -c"
            )
        self._sets[path] = state, opened
        return opened


_opened = _OpenSets()
