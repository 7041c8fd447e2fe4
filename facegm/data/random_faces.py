"""Random pictures in place of a store's faces, to measure with where there is no store."""

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from facegm.data.batch import Batch
from facegm.data.draws import Draws
from facegm.data.faces import LabelledFaces
from facegm.data.preprocessing import Preprocessing
from facegm.data.store import decode_face, encode_face

SIDE = 128
"""Of the pictures, as `facegm align` makes them, in pixels."""
PICTURES = 64
"""Different ones; all faces are taken from these."""


class RandomFaces(Dataset[Batch]):
    """A face of each identity, encoded as in a store of PNG files; gives batches as `LabelledFaces` does.

    The pictures are smooth with a little noise, so that they are as large as faces and take as long to decode. Pixels
    drawn one by one cannot be packed, and are decoded five times as fast.

    Args:
        preprocessing: resize and crop.
        identities: how many.
    """

    def __init__(self, preprocessing: Preprocessing, identities: int) -> None:
        self._preprocessing = preprocessing
        self.labels = np.arange(identities)
        rng = np.random.default_rng(0)
        self._encoded = [encode_face(_picture(rng)) for _ in range(PICTURES)]

    def __getitem__(self, draws: Draws) -> Batch:
        faces = [self._load(number) for number in draws.sample.tolist()]
        return Batch.of(torch.from_numpy(np.stack(faces)), torch.from_numpy(self.labels[draws.sample]), draws)

    def _load(self, number: int) -> UInt8[np.ndarray, "side side 3"]:
        face = decode_face(self._encoded[number % PICTURES], "png")
        assert face is not None
        return self._preprocessing.resize(face)


AnyFaces = LabelledFaces | RandomFaces


def _picture(rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    smooth = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255), np.uint8)
