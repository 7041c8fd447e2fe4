"""Small embedders that are quick to make, and photos for them."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facegm import FaceEmbedder
from facegm.align.face import TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import save_embedder
from facegm.embedding.trained_network import TrainedNetwork
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, build_face_network

DIM, SIDE = 24, 48
CONFIG = FaceModelConfig(width=0.1, embedding_dim=DIM)
PREPROCESSING = Preprocessing(face_size=64, crop_size=SIDE)
HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))


def small_network(seed: int = 0) -> FaceNetwork:
    """A network that was not trained."""
    torch.manual_seed(seed)
    return build_face_network(CONFIG, SIDE).eval()


def small_embedder(network: FaceNetwork | None = None) -> FaceEmbedder:
    """Of such a network."""
    return FaceEmbedder(TrainedNetwork(network or small_network(), PREPROCESSING))


def save_small_embedder(path: Path, seed: int = 0, *, means: torch.Tensor | None = None) -> Path:
    """The file of such an embedder; with class means, where they are given."""
    alignment = {"size": 128, "template": TEMPLATE.tolist()}
    save_embedder(path, small_network(seed), CONFIG, PREPROCESSING, alignment, means)
    return path


def portrait(width: int = 160, height: int = 160) -> np.ndarray:
    """One face, RGB."""
    with Image.open(HOPPER) as hopper:
        return np.array(hopper.crop((0, 0, 512, 512)).resize((width, height)))


def group() -> np.ndarray:
    """Three faces, RGB: one in the middle, a larger one at the left border, and a small one at the right."""
    photo = np.full((240, 640, 3), 90, np.uint8)
    photo[:, :240] = portrait(240, 240)
    photo[20:220, 250:450] = portrait(200, 200)
    photo[60:160, 530:630] = portrait(100, 100)
    return photo


def blank() -> np.ndarray:
    """No face, RGB."""
    return np.full((80, 90, 3), 128, np.uint8)
