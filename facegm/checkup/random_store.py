"""Random pictures in place of a store's faces, to measure with where there is no store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from facegm.store.format import decode_face, encode_face

SIDE = 128
"""Of the pictures, as `facegm align` makes them, in pixels."""
PICTURES = 64
"""Different ones; all faces are taken from these."""


class RandomStore:
    """A face of each identity, encoded as in a store of PNG files; see `facegm.store.reader.AlignedFaces`.

    The pictures are smooth with a little noise, so that they are as large as faces and take as long to decode. Pixels
    drawn one by one cannot be packed, and are decoded five times as fast.

    Args:
        identities: how many.
    """

    folder = Path("random pictures")
    settings: Mapping[str, Any] = {}

    def __init__(self, identities: int) -> None:
        rng = np.random.default_rng(0)
        self._encoded = [encode_face(_picture(rng)) for _ in range(PICTURES)]
        self.keys = [f"{number:06}" for number in range(identities)]

    def identities(self) -> tuple[Int64[np.ndarray, " photos"], Sequence[str]]:
        """Each one's identity as its number, and their names."""
        return np.arange(len(self.keys)), self.keys

    def read_face(self, row: int) -> UInt8[np.ndarray, "size size 3"]:
        """Read one face: RGB, 0 to 255."""
        face = decode_face(self._encoded[row % PICTURES], "png")
        assert face is not None
        return face


def _picture(rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    smooth = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255), np.uint8)
