"""A small embedder with random weights, in its file."""

from pathlib import Path

import torch

from facegm.align.face import TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import save_embedder
from facegm.models.face_network import FaceModelConfig, build_face_network

CONFIG = FaceModelConfig(width=0.1, embedding_dim=24)
PREPROCESSING = Preprocessing(face_size=64, crop_size=48)


def small_embedder(path: Path, *, seed: int = 0) -> Path:
    """Write one of 24 dimensions, which sees 48x48 of 64x64 pixels and their mirror image."""
    torch.manual_seed(seed)
    alignment = {"size": 128, "template": TEMPLATE.tolist()}
    save_embedder(path, build_face_network(CONFIG, PREPROCESSING.crop_size), CONFIG, PREPROCESSING, alignment)
    return path
