"""A face network under attack: aligned faces of 0 to 1 in, embeddings out, and a gradient through all between."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.adversarial.subject import Subject
from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.embedding.network import embed
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import data_of
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.models.face_base import FaceNetwork
from facegm.training.checkpoint import load_newest_checkpoint, weights_of


class AlignedFaceNetwork(nn.Module):
    """A face network with its preprocessing, differentiable.

    It computes what `facegm.embedding.network.embed_crops` does of 8-bit faces, but that a resized face is not rounded
    to 8 bits, and that mirror images are averaged: so embeddings lie where the GM loss has its means.

    Args:
        network: in evaluation mode.
        preprocessing: from aligned faces to its input.
        side: of the aligned faces, in pixels.
    """

    cut: Tensor

    def __init__(self, network: FaceNetwork, preprocessing: Preprocessing, side: int) -> None:
        super().__init__()
        self.network, self._mirror = network, preprocessing.mirror
        matrix = torch.from_numpy(_resizing_and_cropping(preprocessing, side)).to(torch.get_default_dtype())
        self.register_buffer("cut", matrix, persistent=False)

    def forward(self, faces: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """Embed aligned RGB faces of 0 to 1: the mean of f(face) and f(mirrored face), not normalised.

        Without mirrored faces in its training (`Preprocessing.mirror`) it is f(face) alone.
        """
        crops = self.cut @ faces @ self.cut.T
        return self.embed_inputs((255 * crops - PIXEL_CENTER) / PIXEL_SCALE)

    def embed_inputs(self, inputs: Float[Tensor, "batch 3 crop crop"]) -> Float[Tensor, "batch dim"]:
        """The same of faces that are cropped and scaled already."""
        return embed(self.network, inputs, mirror=self._mirror) / (2 if self._mirror else 1)


def _resizing_and_cropping(preprocessing: Preprocessing, side: int) -> Float[np.ndarray, "crop {side}"]:
    """The matrix that resizes and crops the columns of a face; and rows, from the right: OpenCV resizes them apart."""
    identity = np.eye(side)
    face_size, margin = preprocessing.face_size, preprocessing.slack // 2
    if side != face_size:
        interpolation = cv2.INTER_AREA if side > face_size else cv2.INTER_LINEAR
        identity = np.asarray(cv2.resize(identity, (side, face_size), interpolation=interpolation), np.float64)
    return identity[margin : margin + preprocessing.crop_size]


class FaceSubject(NamedTuple):
    """A trained face network, and what else of its run an attack's report speaks of."""

    subject: Subject
    """Images are aligned RGB faces of 0 to 1, features embeddings, and classes the identities of its training."""
    module: AlignedFaceNetwork
    """What computes the embeddings."""
    task: FaceTask
    """Network and loss, whose class vectors are the GM model's means where it is the GM loss."""
    steps: int
    """Of training, that it had taken."""


def load_face_subject(
    run: Path, config: FaceRunConfig, faces: LabelledFaces, side: int, device: torch.device
) -> FaceSubject:
    """The network and the class vectors of a run's newest checkpoint; an exported embedder lacks the latter.

    Where the run averages its weights the average is taken, as for the export.

    Args:
        run: the run folder.
        config: that of the run.
        faces: those that it was trained on.
        side: of the faces to attack, in pixels.
        device: where to compute.

    Raises:
        FacegmError: there is no checkpoint, it is damaged, or of other faces.
    """
    state = load_newest_checkpoint(run)
    if state is None:
        raise FacegmError(
            f"{run}: no checkpoint, in which the means of the identities are; bring its checkpoints back, or train anew"
        )
    if state["data"] != data_of(faces):
        raise FacegmError(
            f"{run}: trained on {state['data']}, but the configuration's data.store, {config.data.store}, now holds "
            f"{data_of(faces)}; bring those faces back, of which the detectors know what is normal"
        )
    task = FaceTask(config.model, config.loss, config.preprocessing, len(faces.identities))
    try:
        task.load_state_dict(weights_of(state))
    except RuntimeError as error:
        raise FacegmError(f"{run}: its checkpoint is of another network than its configuration ({error})") from error
    task.to(device).eval().requires_grad_(False)
    module = AlignedFaceNetwork(task.network, config.preprocessing, side).to(device).eval()
    subject = Subject(module=module, features=module, logits=task.loss.logits)
    return FaceSubject(subject, module, task, int(state["step"]))
