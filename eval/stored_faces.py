"""The faces of a store by the names that pairs give them, read when they are asked for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from facegm.store.reader import FaceStore

KEPT = 2**14
"""Faces that are kept in memory once they were read, 49,152 bytes each: all of LFW's 7,701."""


class StoredFaces(Sequence[UInt8[np.ndarray, "size size 3"]]):
    """Aligned faces (RGB, 0 to 255) in the order of their names.

    Args:
        store: where they lie.
        rows: row of each face in the store, by name.
    """

    def __init__(self, store: FaceStore, rows: Mapping[str, int]) -> None:
        self.names = tuple(rows)
        self._rows = dict(rows)
        self._read = lru_cache(KEPT)(store.read_face)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self.face(name) for name in self.names[number]]
        return self.face(self.names[number])

    def face(self, name: str) -> UInt8[np.ndarray, "size size 3"]:
        """One of them, by its name.

        Raises:
            FacegmError: it is missing or damaged.
        """
        return self._read(self._rows[name])
