"""Embeddings of some training faces over the course of a run, for TensorBoard's projector."""

import torch
from torch import nn

from facegm.data.names import printable
from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE
from facegm.faces.samples import LabelledFaces, few_faces, plain_batch
from facegm.models.face_base import FaceNetwork
from facegm.training.log import Projection
from facegm.training.task import Task, evaluating

IDENTITIES, FACES_EACH = 32, 8
THUMBNAIL = 32
"""Side of the pictures in the projector, in pixels."""
_PART = 32


class Projector:
    """Embeds the same faces each time.

    Args:
        faces: those that are trained on.
    """

    def __init__(self, faces: LabelledFaces) -> None:
        self._faces = faces
        self._numbers = few_faces(faces.labels, identities=IDENTITIES, each=FACES_EACH)

    @torch.no_grad()
    def embed(self, task: Task[FaceNetwork]) -> Projection:
        """Embed the faces by a task's network."""
        images = task.inputs(plain_batch(self._faces, self._numbers).to(task.device))
        with evaluating(task):
            # Not by calling the network: what torch.compile has taken for training would be compiled anew.
            embeddings = torch.cat([task.network.forward(part) for part in images.split(_PART)])
        pictures = nn.functional.interpolate(images * PIXEL_SCALE + PIXEL_CENTER, (THUMBNAIL, THUMBNAIL), mode="area")
        names = [printable(self._faces.identities[label]) for label in self._faces.labels[self._numbers]]
        return Projection(embeddings.cpu(), names, pictures.div(255).clamp(0, 1).cpu())
