"""Aligned faces in, embeddings out."""

import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8

from facegm.data.ahead import done_ahead
from facegm.data.progress import Progress
from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.device import chosen_device
from facegm.embedding.embedding_network import EmbeddingNetwork, Engines
from facegm.embedding.photos import aligned_chip
from facegm.embedding.processes import OncePerProcess
from facegm.errors import FacegmError


class AlignedFaceEmbedder:
    """Embeds aligned faces by a network and whatever computes it best; see `FaceEmbedder`, which finds them first.

    Args:
        network: any.
        expected: faces that are going to be embedded, which decides what embeds them from the first on; None to
            decide when many have come.
    """

    def __init__(self, network: EmbeddingNetwork, *, expected: int | None = None) -> None:
        self._network, self._expected = network, expected
        self._begin()

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._network.dim

    @property
    def contract(self) -> EmbeddingContract:
        """Whose embeddings may be compared with this embedder's."""
        return self._network.contract

    @property
    def is_mirrored(self) -> bool:
        """Whether an embedding is that of the face plus that of its mirror image."""
        return self._network.is_mirrored

    def describe(self) -> str:
        """One line on the network and how it sees faces, for reports."""
        return self._network.describe()

    def embed_aligned(
        self, faces: Sequence[UInt8[np.ndarray, "side side 3"]], *, progress: bool = False
    ) -> Float32[np.ndarray, "faces dim"]:
        """Embed faces that are aligned already (RGB, 0 to 255); mirror-summed, not normalised.

        The next faces are taken from the sequence, in another thread, while the last ones are embedded, so it may well
        read them from a disk when they are asked for.

        Args:
            faces: on the usual five-point template; of other sizes than 128x128, such as 112x112, they are resized.
            progress: whether to show it.

        Raises:
            FacegmError: a face of another type or shape, which is named by its number.
        """
        if not len(faces):
            return np.empty((0, self.dim), np.float32)
        engine, size = self._engines.get().engine(len(faces)), self._network.batch_size
        parts = [range(start, min(start + size, len(faces))) for start in range(0, len(faces), size)]
        embeddings = np.empty((len(faces), self.dim), np.float32)

        def crops(part: range) -> UInt8[np.ndarray, "batch crop crop 3"]:
            return self._network.crops(aligned_chip(faces[number], number) for number in part)

        with Progress("embed", len(faces), "faces", is_shown=progress) as shown:
            for part, batch in zip(parts, done_ahead([partial(crops, part) for part in parts]), strict=True):
                embeddings[part.start : part.stop] = self._network.embed(engine, batch, mirror=self.is_mirrored)
                shown.update(len(part))
        return embeddings

    def embed_sides(
        self, faces: UInt8[np.ndarray, "faces side side 3"]
    ) -> tuple[Float[np.ndarray, "faces dim"], Float[np.ndarray, "faces dim"]]:
        """Embed some aligned faces (RGB, 0 to 255) and their mirror images, apart; not normalised.

        Raises:
            FacegmError: an exported ONNX model, which adds up both itself.
        """
        engine, crops = self._engines.get().engine(len(faces)), self._network.crops(faces)
        face, mirrored = (
            self._network.embed(engine, side, mirror=False) for side in (crops, np.ascontiguousarray(crops[:, :, ::-1]))
        )
        return face, mirrored

    def _begin(self) -> None:
        """Begin with nothing that a process has to make for itself."""
        network, expected = self._network, self._expected
        is_on_gpu = network.device.type == "cuda"
        self._engines = OncePerProcess(lambda: Engines(network, expected), is_on_gpu=is_on_gpu)

    def __getstate__(self) -> dict[str, Any]:
        """The network as bytes: multiprocessing would put tensors into shared memory, which containers lack."""
        state = {name: value for name, value in self.__dict__.items() if not isinstance(value, OncePerProcess)}
        network = self._network.to(torch.device("cpu"))
        return state | {"_network": pickle.dumps(network), "device": str(self._network.device)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = chosen_device(state.pop("device"))
        self.__dict__.update(state)
        self._network = pickle.loads(state["_network"]).to(device)
        self._begin()


def normalised(embeddings: Float[np.ndarray, "photos dim"]) -> Float[np.ndarray, "photos dim"]:
    """Scale embeddings to unit L2 norm."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny))


def with_unit_length(
    embeddings: Float32[np.ndarray, "faces dim"],
) -> tuple[Float32[np.ndarray, "faces dim"], Float32[np.ndarray, " faces"]]:
    """Embeddings scaled to unit L2 norm, and their norms before.

    Raises:
        FacegmError: some have no direction.
    """
    norms = np.linalg.norm(embeddings, axis=1)
    usable = _have_direction(norms)
    if not usable.all():
        raise _without_direction(usable)
    return normalised(embeddings), norms


def usable_embeddings(embeddings: Float32[np.ndarray, "faces dim"]) -> Bool[np.ndarray, " faces"]:
    """Of each embedding whether it has a direction.

    Raises:
        FacegmError: none of several has one, so that the model is to blame.
    """
    usable = _have_direction(np.linalg.norm(embeddings, axis=1))
    if len(usable) > 1 and not usable.any():
        raise _without_direction(usable)
    return usable


def _have_direction(norms: Float32[np.ndarray, " faces"]) -> Bool[np.ndarray, " faces"]:
    return np.asarray(np.isfinite(norms) & (norms > 0))


def _without_direction(usable: Bool[np.ndarray, " faces"]) -> FacegmError:
    return FacegmError(
        f"embeddings: zero, NaN or infinity in {np.count_nonzero(~usable)} of {len(usable)}, so they say nothing about "
        "identity; the model is untrained, has collapsed or overflows"
    )
