"""Reading a store of aligned faces, by the rows of its manifest."""

import logging
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8

from facegm.data.names import unescaped
from facegm.errors import FacegmError
from facegm.store.convert import table_before
from facegm.store.faces import Place, place_of
from facegm.store.format import (
    DICTIONARY_COLUMNS,
    FORMAT_BEFORE,
    MANIFEST_FILE,
    SCHEMA,
    StoreFormat,
    decode_face,
    has_face,
    read_settings,
)
from facegm.store.journal import JOURNALS

logger = logging.getLogger(__name__)
NO_FACE, NO_IDENTITY = -1, -2
"""In place of an identity's number, of a photo without a face, and of a face of no known identity."""
PATIENCE = 5.0
"""Seconds for a look at what else is damaged, where one face is."""


class Keys(Sequence[str]):
    """Names of photos in one block of memory: ten million of them take less than half a gigabyte."""

    def __init__(self, names: pa.Array) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [unescaped(name) for name in self._names[row].to_pylist()]
        return unescaped(self._names[int(row)].as_py())

    def __iter__(self) -> Iterator[str]:
        return (unescaped(name.as_py()) for name in self._names)


class AlignedFaces(Protocol):
    """A store, or what can be read like one."""

    @property
    def folder(self) -> Path:
        """Where they lie, for messages."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How they were found, aligned and encoded; see `facegm.store.format.read_settings`."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of all photos, those without a face too, by row."""

    def identities(self) -> tuple[Int64[np.ndarray, " photos"], Sequence[str]]:
        """Each photo's identity as its number, or `NO_FACE` or `NO_IDENTITY`; and their names, in any order."""

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        """Read one face: RGB, 0 to 255.

        Raises:
            FacegmError: the face is missing or damaged.
        """


class FaceStore:
    """A store of aligned faces, opened for reading, also one of the format before; see `AlignedFaces`.

    Raises:
        FacegmError: the folder is not a store, is not at its end, or its manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_settings(folder)
        self._format = StoreFormat.of(self.settings)
        if self.settings["format"] != FORMAT_BEFORE and any(folder.glob(JOURNALS)):
            if not (folder / MANIFEST_FILE).is_file():
                raise FacegmError(
                    f"{folder}: the alignment of this store is not at its end; run `facegm align` again as before, and "
                    "each --shard that was interrupted or not begun"
                )
            logger.warning(
                f"{folder}: taken as it was before the last `facegm align`, which has not finished; where that has "
                "begun to replace or remove faces, they are missing: wait for it, or run it again"
            )

    @property
    def size(self) -> int:
        """Side of the square face images in pixels."""
        return int(self.settings["size"])

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The manifest, or some of its columns: a row for each photo, in the order of their keys.

        Raises:
            FacegmError: the manifest is missing or damaged.
        """
        if self.settings["format"] == FORMAT_BEFORE:
            return self._table_before.select(columns or SCHEMA.names)
        return read_manifest(self.folder, columns)

    @cached_property
    def _table_before(self) -> pa.Table:
        return table_before(self.folder)

    @cached_property
    def keys(self) -> Keys:
        """Names of all photos, those without a face too, by row."""
        return Keys(self._places["key"])

    def identities(self) -> tuple[Int64[np.ndarray, " photos"], Sequence[str]]:
        """Each photo's identity as its number, or `NO_FACE` or `NO_IDENTITY`; and their names, in any order."""
        # Read together with the keys: an alignment may put another manifest in the place of this one at any moment.
        encoded = self._places["identity"].dictionary_encode()
        numbers = pc.fill_null(encoded.indices, NO_IDENTITY).to_numpy(zero_copy_only=False).astype(np.int64)
        numbers[~has_face(self._places["status"])] = NO_FACE
        return numbers, Keys(encoded.dictionary)

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        """Read one aligned face, by its row of the manifest: RGB, 0 to 255.

        Raises:
            FacegmError: the picture is missing or damaged; others that are missing or cut short are named too.
        """
        place, checksum = self._place(row), self._places["checksum"][row].as_py()
        try:
            data = place.read()
        except OSError:
            data = b""
        # In the format before, neither length nor checksum is known.
        is_sound = checksum is None or (len(data), zlib.crc32(data)) == (place.length, checksum)
        face = decode_face(data, self._format.encoding) if data and is_sound else None
        if face is None or face.shape != (self.size, self.size, 3):
            raise FacegmError(self._damage(row))
        return face

    def _damage(self, row: int) -> str:
        """What to say of a damaged face: it is seldom alone, and all are to be mended at once."""
        others, end, rest = [], time.monotonic() + PATIENCE, ""
        for other in range(len(self.keys)):
            if other != row and self._places["status"][other].as_py() != "failed" and not self._place(other).is_whole():
                others.append(self.keys[other])
            if time.monotonic() > end:
                rest = " at least"
                break
        also = ""
        if others:
            also = f", and {len(others):,} others{rest}: {', '.join(others[:5])}{', ...' * (len(others) > 5)}"
        return (
            f"{self._place(row).path}: missing or damaged face of the store, of {self.keys[row]}{also}; "
            "run `facegm align` again as before, which makes damaged faces anew"
        )

    def _place(self, row: int) -> Place:
        part, offset, length = (self._places[name][row].as_py() for name in ("part", "offset", "length"))
        return place_of(self.folder, self._format, self.keys[row], part, offset or 0, -1 if length is None else length)

    @cached_property
    def _places(self) -> dict[str, pa.Array]:
        table = self.table(["key", "identity", "status", "part", "offset", "length", "checksum"])
        places = {name: table[name].unify_dictionaries().combine_chunks() for name in table.column_names}
        del table
        pa.default_memory_pool().release_unused()  # else the system would not get back what reading took
        return places


def read_manifest(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the manifest of a store, or some of its columns.

    Raises:
        FacegmError: it is missing or damaged.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = pq.ParquetFile(path, read_dictionary=[*DICTIONARY_COLUMNS], page_checksum_verification=True)
        table = manifest.read(columns, use_threads=False)  # with threads, reading takes twice the memory, and longer
        table.validate(full=True)  # the checksums are of the pages alone, not of their headers
        return table.select(columns or SCHEMA.names)
    except FileNotFoundError as error:
        raise FacegmError(f"{path}: missing; run `facegm align` again as before") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise FacegmError(
            f"{path}: damaged ({error}); bring it back, or delete it and run `facegm align` again, which then aligns "
            "all photos anew"
        ) from error
