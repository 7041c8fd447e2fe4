"""What computes a network's embeddings: by the device, and by how many faces there are."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from facegm.align.networks import exact_convolutions
from facegm.data.machine import has_fast_bfloat16
from facegm.embedding.openvino_engine import OpenVinoEngine, is_installed
from facegm.models.face_base import FaceNetwork
from facegm.models.quick_network import quick_copy

PIXELS = 2**17
"""Of the images that a network is given at a time on a CPU: what it makes of them then mostly stays in the cache."""
GPU_BATCH = 256
"""Faces that it is given at a time on a GPU."""
WORTH_A_TRANSLATION = 500
"""Faces from which on a translation to OpenVINO, half a second to one, has paid for itself, by a small network too."""


class Engine(Protocol):
    """Whatever computes a network's embeddings."""

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """The embeddings, not normalised, in float32, of a network's input."""


class TorchEngine:
    """A copy of a network on its device; products in bfloat16 on a CPU that is fast in it, else in whole float32."""

    def __init__(self, network: FaceNetwork) -> None:
        self._network = quick_copy(network)
        self._device = next(network.parameters()).device
        self._is_half = self._device.type == "cpu" and has_fast_bfloat16()

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """See `Engine`."""
        half = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._is_half)
        with exact_convolutions(self._device), half:
            return self._network.forward(images).float()


def engine_class(network: FaceNetwork, faces: int) -> type[TorchEngine] | type[OpenVinoEngine]:
    """What embeds so many faces soonest: OpenVINO on a CPU where it is installed and pays, else torch."""
    return OpenVinoEngine if takes_openvino(next(network.parameters()).device.type, faces) else TorchEngine


def takes_openvino(device: str, faces: int) -> bool:
    """Whether OpenVINO embeds so many faces soonest, on a type of device."""
    return device == "cpu" and faces >= WORTH_A_TRANSLATION and is_installed()


def best_batch(network: FaceNetwork) -> int:
    """Faces that the network is best given at a time, on its device."""
    if next(network.parameters()).device.type != "cpu":
        return GPU_BATCH
    return max(1, PIXELS // network.input_size**2)
