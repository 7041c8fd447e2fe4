"""Aligned faces to embeddings, in batches."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from facegm.data.preprocessing import Preprocessing, network_input
from facegm.models.face_base import FaceNetwork


@torch.inference_mode()
def embed_faces(
    network: FaceNetwork, preprocessing: Preprocessing, faces: UInt8[np.ndarray, "batch side side 3"]
) -> Float[np.ndarray, "batch dim"]:
    """Embed aligned RGB faces, 0 to 255: f(face) + f(mirrored face), not normalised, in float32.

    Without mirrored faces in its training (`preprocessing.mirror`), a network's embedding is f(face) alone.
    """
    device = next(network.parameters()).device
    images = network_input(torch.from_numpy(preprocessing.middle_crops(faces)).to(device))
    return np.asarray(embed(network, images, mirror=preprocessing.mirror).cpu().numpy())


@torch.inference_mode()
def embed_sides(
    network: FaceNetwork, preprocessing: Preprocessing, faces: UInt8[np.ndarray, "batch side side 3"]
) -> tuple[Float[np.ndarray, "batch dim"], Float[np.ndarray, "batch dim"]]:
    """f(face) and f(mirrored face) of aligned RGB faces, 0 to 255, apart: not normalised, in float32."""
    device = next(network.parameters()).device
    images = network_input(torch.from_numpy(preprocessing.middle_crops(faces)).to(device))
    face, mirrored = (embed(network, side, mirror=False).cpu().numpy() for side in (images, images.flip(3)))
    return face, mirrored


def embed(
    network: FaceNetwork, images: Float[Tensor, "batch 3 side side"], *, mirror: bool
) -> Float[Tensor, "batch dim"]:
    """f(image), or with `mirror` f(image) + f(mirrored image), not normalised, of a network's input."""
    # Not by calling it: a network that torch.compile has taken for its training would be compiled anew for this.
    embeddings = network.forward(images)
    return embeddings + network.forward(images.flip(3)) if mirror else embeddings
