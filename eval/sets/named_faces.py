"""Aligned faces by the names that pairs give them, read when they are asked for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

KEPT = 2**14
"""Faces that are kept in memory once they were read, 49,152 bytes each: all of LFW's 7,701."""


@runtime_checkable
class ReadsFaces(Protocol):
    """What faces lie in."""

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        """Read one of them: RGB, 0 to 255."""


class NamedFaces(Sequence[UInt8[np.ndarray, "size size 3"]]):
    """Aligned faces (RGB, 0 to 255) in the order of their names.

    Args:
        source: where they lie: a store, or a packed set.
        rows: row of each face there, by name.
    """

    def __init__(self, source: ReadsFaces, rows: Mapping[str, int]) -> None:
        self.names = tuple(rows)
        self._rows = dict(rows)
        self._read = lru_cache(KEPT)(source.read_face)

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
