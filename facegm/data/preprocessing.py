"""From images in memory to the network's input, whole batches at a time: crop, mirror, scale.

The numbers for faces are the same in training, evaluation and apps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

PIXEL_CENTER, PIXEL_SCALE = 127.5, 128.0
Padding = Literal["reflect", "zero"]
"""What lies beyond an image's border."""


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

    def middle_crops(self, faces: Iterable[UInt8[np.ndarray, "side side 3"]]) -> UInt8[np.ndarray, "batch crop crop 3"]:
        """What of aligned faces an embedding is made of: resized, and the middle of that."""
        return np.ascontiguousarray(self.center_crop(np.stack([self.resize(face) for face in faces])))


def network_input(crops: UInt8[Tensor, "batch side side 3"]) -> Float[Tensor, "batch 3 side side"]:
    """RGB pixels, 0 to 255, channels last in memory order, to the network's input, in torch's default precision."""
    return (crops.permute(0, 3, 1, 2).to(torch.get_default_dtype()) - PIXEL_CENTER) / PIXEL_SCALE


def crop_and_mirror(
    images: UInt8[Tensor, "batch height width channels"],
    top: Int64[Tensor, " batch"],
    left: Int64[Tensor, " batch"],
    mirrored: Bool[Tensor, " batch"],
    side: int,
    padding: Padding = "reflect",
) -> UInt8[Tensor, "batch {side} {side} channels"]:
    """Cut a square out of each image, from (top, left), and mirror it where that is asked for.

    No padded copy is made: what lies beyond the border is computed from the positions.

    Args:
        images: of one size.
        top: first row, negative above the image.
        left: first column, negative left of the image.
        mirrored: whether the cut is mirrored.
        side: of the cuts, in pixels.
        padding: what lies beyond the border: the image mirrored at its outermost pixels, which are not repeated and
            reach less than its length beyond; or zeros.
    """
    steps = torch.arange(side, device=images.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(mirrored[:, None], side - 1 - steps, steps)
    height, width = images.shape[1:3]
    within = _reflected if padding == "reflect" else _clamped
    numbers = torch.arange(len(images), device=images.device)[:, None, None]
    cut = images[numbers, within(rows, height)[:, :, None], within(columns, width)[:, None, :]]
    if padding == "zero":
        inside = _is_inside(rows, height)[:, :, None] & _is_inside(columns, width)[:, None, :]
        cut = cut * inside[..., None]
    return cut


def _reflected(positions: Tensor, length: int) -> Tensor:
    """Positions beyond the border, by less than its length, reflected at the first or last pixel."""
    return (length - 1) - ((length - 1) - positions.abs()).abs()


def _clamped(positions: Tensor, length: int) -> Tensor:
    """Positions beyond the border, however far, moved to the first or last pixel."""
    return positions.clamp(0, length - 1)


def _is_inside(positions: Tensor, length: int) -> Tensor:
    return (positions >= 0) & (positions < length)
