"""MTCNN face detection with facenet-pytorch's networks and weights."""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from facenet_pytorch.models.utils.detect_face import detect_face
from jaxtyping import Float, UInt8
from torch import nn

MINIMUM_FACE = 20
"""Smallest face looked for, in pixels. It shapes the image pyramid, and so every result: it is fixed."""
STAGE_THRESHOLDS = (0.6, 0.7, 0.7)
PYRAMID_FACTOR = 0.709


@dataclass(frozen=True, kw_only=True)
class DetectedFaces:
    """The faces of one photo, in the detector's order; coordinates in pixels of the photo."""

    boxes: Float[np.ndarray, "faces 4"]
    """Left, top, right, bottom."""
    probabilities: Float[np.ndarray, " faces"]
    landmarks: Float[np.ndarray, "faces 5 2"]
    """Left eye, right eye, nose, left and right mouth corner as (x, y)."""

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector:
    """MTCNN (Zhang et al. 2016) on the CPU, equal to facenet-pytorch's `MTCNN(keep_all=True).detect`."""

    def __init__(self) -> None:
        self._networks = [_load(network, name) for network, name in ((PNet, "pnet"), (RNet, "rnet"), (ONet, "onet"))]

    @torch.inference_mode()
    def detect(self, photo: UInt8[np.ndarray, "height width 3"]) -> DetectedFaces:
        """Find all faces of an upright RGB photo, 0 to 255; no face is an empty result, not an error."""
        if min(photo.shape[:2]) < MINIMUM_FACE:
            return DetectedFaces(boxes=np.empty((0, 4)), probabilities=np.empty(0), landmarks=np.empty((0, 5, 2)))
        boxes, landmarks = detect_face(
            photo, MINIMUM_FACE, *self._networks, STAGE_THRESHOLDS, PYRAMID_FACTOR, torch.device("cpu")
        )
        found = np.asarray(boxes[0], np.float64).reshape(-1, 5)
        return DetectedFaces(
            boxes=found[:, :4],
            probabilities=found[:, 4],
            landmarks=np.asarray(landmarks[0], np.float64).reshape(-1, 5, 2),
        )


def choose_face(faces: DetectedFaces, photo_shape: tuple[int, ...]) -> int | None:
    """Index of the largest central face, or None without one.

    The rule of the FaceNet alignment scripts: the box's area less twice the squared distance of its centre from the
    photo's centre, so that a large bystander at the border loses to the subject.
    """
    if not len(faces):
        return None
    left, top, right, bottom = faces.boxes.T
    height, width = photo_shape[:2]
    off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
    return int(np.argmax((right - left) * (bottom - top) - 2 * off_centre))


def _load(network: type[nn.Module], name: str) -> nn.Module:
    weights = files("facenet_pytorch") / "data" / f"{name}.pt"
    module = network(pretrained=False)
    with weights.open("rb") as file:
        module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return module.eval().to(memory_format=torch.channels_last)
