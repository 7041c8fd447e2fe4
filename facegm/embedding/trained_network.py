"""A network of this program as the embedder uses it."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.align.face import resize_aligned
from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.data.weights import digest_of
from facegm.embedding.contract import EmbeddingContract, preprocessing_digest
from facegm.embedding.embedding_network import ALIGNMENT, seen_as
from facegm.embedding.engine import Engine, best_batch, engine_class
from facegm.embedding.model_file import load_embedder
from facegm.embedding.network import embed_crops
from facegm.errors import FacegmError
from facegm.models.face_base import FaceNetwork


class TrainedNetwork:
    """A network of this program, run by torch or OpenVINO; see `EmbeddingNetwork`.

    Args:
        network: in evaluation mode, on the device where it is to run.
        preprocessing: from aligned faces to its input.
    """

    def __init__(self, network: FaceNetwork, preprocessing: Preprocessing) -> None:
        self.network, self.preprocessing = network, preprocessing
        self._contract: EmbeddingContract | None = None

    @classmethod
    def load(cls, file: Path, device: torch.device) -> "TrainedNetwork":
        """That of an `embedder.safetensors`.

        Raises:
            FacegmError: see `load_embedder`; or it was trained on faces of another alignment template than this one's.
        """
        network, preprocessing, alignment = load_embedder(file)
        if {name: alignment.get(name) for name in ALIGNMENT} != ALIGNMENT:
            raise FacegmError(f"{file}: trained on faces of another alignment template than this facegm's")
        return cls(network.to(device), preprocessing)

    @property
    def dim(self) -> int:
        """See `EmbeddingNetwork`."""
        return self.network.embedding_dim

    @property
    def is_mirrored(self) -> bool:
        """See `EmbeddingNetwork`."""
        return self.preprocessing.mirror

    @property
    def device(self) -> torch.device:
        """See `EmbeddingNetwork`."""
        return next(self.network.parameters()).device

    @property
    def batch_size(self) -> int:
        """See `EmbeddingNetwork`."""
        return best_batch(self.network)

    @property
    def contract(self) -> EmbeddingContract:
        """See `EmbeddingNetwork`; made of the weights when it is first asked for."""
        if self._contract is None:
            prepared = {
                "preprocessing": asdict(self.preprocessing),
                "pixels": {"color": "RGB", "center": PIXEL_CENTER, "scale": PIXEL_SCALE},
                "alignment": ALIGNMENT,
            }
            self._contract = EmbeddingContract(
                weights=digest_of(self.network.state_dict()), preprocessing=preprocessing_digest(prepared), dim=self.dim
            )
        return self._contract

    def to(self, device: torch.device) -> "TrainedNetwork":
        """See `EmbeddingNetwork`."""
        if self.device == device:
            return self
        return TrainedNetwork(deepcopy(self.network).to(device), self.preprocessing)

    def describe(self) -> str:
        """See `EmbeddingNetwork`."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return f"{self.network.label}, {parameters:,} parameters, {self.dim} dimensions, {seen_as(self.preprocessing)}"

    def crops(self, faces: Iterable[UInt8[np.ndarray, "side side 3"]]) -> UInt8[np.ndarray, "batch crop crop 3"]:
        """See `EmbeddingNetwork`."""
        return self.preprocessing.middle_crops(resize_aligned(face) for face in faces)

    def engine_for(self, faces: int, current: Engine | None) -> Engine:
        """See `EmbeddingNetwork`."""
        fastest = engine_class(self.network, faces)
        return current if isinstance(current, fastest) else fastest(self.network)

    def embed(
        self, engine: Engine, crops: UInt8[np.ndarray, "batch crop crop 3"], *, mirror: bool
    ) -> Float[np.ndarray, "batch dim"]:
        """See `EmbeddingNetwork`."""
        return embed_crops(engine, crops, mirror=mirror, device=self.device)
