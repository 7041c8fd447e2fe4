"""Embeddings of some training faces over the course of a run, for TensorBoard's projector."""

import torch
from torch import nn

from facegm.data.augment import augmented_input
from facegm.data.faces import LabelledFaces
from facegm.data.names import printable
from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.models.face_resnet import FaceResNet27
from facegm.training.plain_batch import few_faces, plain_batch
from facegm.training.progress_log import Projection

IDENTITIES, FACES_EACH = 32, 8
THUMBNAIL = 32
"""Side of the pictures in the projector, in pixels."""
_PART = 32


class Projector:
    """Embeds the same faces each time.

    Args:
        faces: those that are trained on.
        preprocessing: from aligned faces to the network's input.
    """

    def __init__(self, faces: LabelledFaces, preprocessing: Preprocessing) -> None:
        self._faces, self._preprocessing = faces, preprocessing
        self._numbers = few_faces(faces.labels, identities=IDENTITIES, each=FACES_EACH)

    @torch.no_grad()
    def embed(self, network: FaceResNet27) -> Projection:
        """Embed the faces; the network is left in the mode it was in."""
        device = network.embedding.weight.device
        batch = plain_batch(self._faces, self._numbers, self._preprocessing).to(device)
        images = augmented_input(batch, network.input_size)
        was_training = network.training
        network.eval()
        # Not by calling it: a network that torch.compile has taken would be compiled anew for this.
        embeddings = torch.cat([network.forward(part) for part in images.split(_PART)])
        network.train(was_training)
        pictures = nn.functional.interpolate(images * PIXEL_SCALE + PIXEL_CENTER, (THUMBNAIL, THUMBNAIL), mode="area")
        names = [printable(self._faces.identities[label]) for label in self._faces.labels[self._numbers]]
        return Projection(embeddings.cpu(), names, pictures.div(255).clamp(0, 1).cpu())
