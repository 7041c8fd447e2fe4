"""The embedding of faces by the network as it is, a batch at once: what faster ways are compared with."""

import numpy as np
import torch

from facegm.data.preprocessing import Preprocessing
from facegm.models.face_base import FaceNetwork


@torch.no_grad()
def embed_faces(network: FaceNetwork, preprocessing: Preprocessing, faces: np.ndarray) -> np.ndarray:
    """f(face), and where training mirrored faces + f(mirrored face), by its parameters' precision."""
    weight = next(network.parameters())
    pixels = torch.from_numpy(preprocessing.middle_crops(faces)).to(weight.dtype).permute(0, 3, 1, 2)
    images = (pixels.contiguous() - 127.5) / 128
    embeddings = network.forward(images)
    if preprocessing.mirror:
        embeddings = embeddings + network.forward(images.flip(3))
    return np.asarray(embeddings.numpy())
