"""Stand-in: what the inspection needs of the store's reader."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from facegm.errors import FacegmError


class FaceStore:
    """A store of aligned faces, opened for reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "store.json").is_file():
            raise FacegmError(f"{folder}: not a store of aligned faces; make one by `facegm align PHOTOS`")
        self.settings: Mapping[str, Any] = json.loads((folder / "store.json").read_text())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The manifest, a row a photo, in order."""
        return pq.read_table(self.folder / "manifest.parquet", columns=None if columns is None else list(columns))

    def key(self, row: int) -> str:
        """Name of the photo of a row."""
        return str(self.table(["key"])["key"][row].as_py())

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        """Read one face: RGB, 0 to 255."""
        path = self.folder / "faces" / f"{self.key(row)}.png"
        face = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if face is None:
            raise FacegmError(f"{path}: missing or damaged face of the store; run `facegm align` again")
        return np.asarray(face, np.uint8)
