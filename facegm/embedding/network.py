"""Aligned faces to embeddings, in batches."""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.data.preprocessing import Preprocessing, network_input
from facegm.models.face_resnet import FaceResNet27


@torch.inference_mode()
def embed_faces(
    network: FaceResNet27, preprocessing: Preprocessing, faces: UInt8[np.ndarray, "batch side side 3"]
) -> Float[np.ndarray, "batch dim"]:
    """Embed aligned RGB faces, 0 to 255: f(face) + f(mirrored face), not normalised, in float32.

    Without mirrored faces in its training (`preprocessing.mirror`), a network's embedding is f(face) alone.
    """
    device = next(network.parameters()).device
    resized = np.stack([preprocessing.resize(face) for face in faces])
    images = network_input(torch.from_numpy(preprocessing.center_crop(resized)).to(device))
    # Not by calling it: a network that torch.compile has taken for its training would be compiled anew for this.
    embeddings = network.forward(images)
    if preprocessing.mirror:
        embeddings = embeddings + network.forward(images.flip(3))
    return np.asarray(embeddings.cpu().numpy())
