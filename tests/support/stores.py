"""What a store of aligned faces holds, as objects by the photos' names: for tests, whose stores are small."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from facegm.data.names import unescaped
from facegm.store.format import SCHEMA, FaceRecord
from facegm.store.reader import FaceStore

PLACE = ("part", "offset", "length", "checksum")
"""Columns of the manifest that say where a face lies."""


class NamedFaces(FaceStore):
    """A store, read by the names of its photos too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = self.table().select([name for name in SCHEMA.names if name not in PLACE]).to_pylist()
        self.records = {unescaped(row["key"]): _record(row) for row in rows}
        """What is recorded of each photo, in order."""

    def face(self, key: str) -> UInt8[np.ndarray, "side side 3"]:
        """The face of a photo."""
        return self.read_face(list(self.records).index(key))


def face_path(folder: Path, key: str, suffix: str = ".png") -> Path:
    """Where a store that keeps one file a face has that of a photo."""
    return folder / "faces" / (key + suffix)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _record(row: dict[str, Any]) -> FaceRecord:
    texts = {name: value and unescaped(value) for name, value in row.items() if isinstance(value, str)}
    hashes = {name: row[name] and row[name].hex() for name in ("digest", "perceptual_hash")}
    points = row["landmarks"]
    landmarks = points and [points[start : start + 2] for start in range(0, 10, 2)]
    return FaceRecord(**row | texts | hashes | {"landmarks": landmarks})
