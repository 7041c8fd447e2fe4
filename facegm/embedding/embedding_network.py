"""What the embedder asks of whatever embeds aligned faces, be it a trained network or an ONNX model."""

from collections.abc import Iterable
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.align.face import FACE_SIZE, TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.contract import EmbeddingContract

ALIGNMENT: dict[str, Any] = {"size": FACE_SIZE, "template": TEMPLATE.tolist()}
"""Of an embedder's description, what must be as this version aligns faces."""


class EmbeddingNetwork(Protocol):
    """From aligned faces to embeddings: how it sees them, and what computes it.

    It holds no engine of its own, so that it can be pickled, and used on both sides of a fork.
    """

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def is_mirrored(self) -> bool:
        """Whether an embedding is that of the face plus that of its mirror image."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def batch_size(self) -> int:
        """Faces that it is best given at a time."""

    @property
    def contract(self) -> EmbeddingContract:
        """Whose embeddings may be compared with its own."""

    def to(self, device: torch.device) -> "EmbeddingNetwork":
        """The same on another device; itself where it is there."""

    def describe(self) -> str:
        """One line on the network and how it sees faces, for reports."""

    def crops(self, faces: Iterable[UInt8[np.ndarray, "side side 3"]]) -> UInt8[np.ndarray, "batch crop crop 3"]:
        """What of aligned RGB faces it is shown."""

    def engine_for(self, faces: int, current: Any) -> Any:
        """What computes it best for so many faces.

        Args:
            faces: how many, with those that were embedded before.
            current: the engine so far, which is given back where none is better; None where there is none.
        """

    def embed(
        self, engine: Any, crops: UInt8[np.ndarray, "batch crop crop 3"], *, mirror: bool
    ) -> Float[np.ndarray, "batch dim"]:
        """Embed crops in float32, not normalised.

        Args:
            engine: from `engine_for`.
            crops: from `crops`.
            mirror: whether to add the embeddings of the mirror images.

        Raises:
            FacegmError: a model that adds up both itself is asked for one alone.
        """


class Engines:
    """The engines of one network, which threads may share.

    Args:
        network: on its device.
        expected: faces that are going to be embedded, all of them by one engine then; None where that is not known.
    """

    def __init__(self, network: EmbeddingNetwork, expected: int | None = None) -> None:
        self._network, self._expected, self._lock = network, expected, Lock()
        self._engine: Any = None
        self._faces = 0

    def engine(self, faces: int) -> Any:
        """What embeds so many more faces; once many were embedded, also a few."""
        with self._lock:
            self._faces += faces
            reckoned = self._faces if self._expected is None else self._expected
            self._engine = self._network.engine_for(reckoned, self._engine)
            return self._engine


def seen_as(preprocessing: Preprocessing) -> str:
    """How a network of this program sees faces, in words."""
    crop, face = preprocessing.crop_size, preprocessing.face_size
    return f"{crop}x{crop} pixels of {face}x{face}, mirror: {'sum' if preprocessing.mirror else 'none'}"
