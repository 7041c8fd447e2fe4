"""Crops of aligned faces to embeddings."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from facegm.data.preprocessing import network_input
from facegm.embedding.engine import Engine
from facegm.models.face_base import FaceNetwork


@torch.inference_mode()
def embed_crops(
    network: Engine, crops: UInt8[np.ndarray, "batch crop crop 3"], *, mirror: bool, device: torch.device
) -> Float[np.ndarray, "batch dim"]:
    """Embed what a network sees of aligned RGB faces, 0 to 255, as `embed` does, in float32.

    Args:
        network: on the device.
        crops: as `Preprocessing.middle_crops` gives them.
        mirror: `Preprocessing.mirror`: without mirrored faces in its training, a network's embedding is f(face) alone.
        device: where the network is.
    """
    return np.asarray(embed(network, network_input(torch.from_numpy(crops).to(device)), mirror=mirror).cpu().numpy())


def embed(
    network: FaceNetwork | Engine, images: Float[Tensor, "batch 3 side side"], *, mirror: bool
) -> Float[Tensor, "batch dim"]:
    """f(image), or with `mirror` f(image) + f(mirrored image), not normalised, of a network's input."""
    # Not by calling it: a network that torch.compile has taken for its training would be compiled anew for this.
    embeddings = network.forward(images)
    return embeddings + network.forward(images.flip(3)) if mirror else embeddings
