"""From aligned faces to the network's input; the same numbers in training, evaluation and apps."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

PIXEL_CENTER, PIXEL_SCALE = 127.5, 128.0


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network sees aligned faces: RGB, scaled to (pixel - 127.5) / 128."""

    face_size: int = 128
    """Side in pixels to which an aligned face is resized before cropping."""
    crop_size: int = 120
    """Side in pixels of the network's input: random crops in training, the centre in evaluation."""
    mirror: bool = True
    """Whether training mirrors faces at random, and an embedding is that of the face plus that of its mirror image."""

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.face_size:
            raise ValueError(f"crop_size: {self.crop_size}, must be from 1 to face_size ({self.face_size})")

    @property
    def slack(self) -> int:
        """Pixels by which a resized face is larger than the network's input."""
        return self.face_size - self.crop_size

    def resize(self, face: UInt8[np.ndarray, "side side 3"]) -> UInt8[np.ndarray, "face_size face_size 3"]:
        """Bring an aligned face to `face_size`, averaging when it shrinks."""
        if face.shape[0] == self.face_size:
            return face
        interpolation = cv2.INTER_AREA if face.shape[0] > self.face_size else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(face, (self.face_size, self.face_size), interpolation=interpolation), np.uint8)

    def center_crop(self, faces: UInt8[np.ndarray, "*batch face face 3"]) -> UInt8[np.ndarray, "*batch crop crop 3"]:
        """The middle `crop_size` pixels of resized faces."""
        margin = self.slack // 2
        middle = slice(margin, margin + self.crop_size)
        return faces[..., middle, middle, :]


def network_input(crops: UInt8[Tensor, "batch side side 3"]) -> Float[Tensor, "batch 3 side side"]:
    """RGB pixels, 0 to 255, channels last in memory order, to the network's input, in torch's default precision."""
    return (crops.permute(0, 3, 1, 2).to(torch.get_default_dtype()) - PIXEL_CENTER) / PIXEL_SCALE
