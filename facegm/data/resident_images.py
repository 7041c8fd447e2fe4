"""Small images of one size, such as MNIST's and CIFAR's, that lie in memory as one array; cropped on the device."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor

from facegm.data.preprocessing import Padding, crop_and_mirror
from facegm.data.samples import Batch, DrawnSamples, Samples, checked_labels
from facegm.errors import FacegmError


class CropDraws(NamedTuple):
    """How images are cropped, a row an image: arrays where they are drawn, tensors in a batch."""

    top: Any
    left: Any
    """Where the crop begins, in pixels of the image; integers, negative beyond its border."""
    mirrored: Any
    """Booleans."""


@dataclass(frozen=True, kw_only=True)
class PaddedCrop:
    """Crops at random places of padded images, as He et al. 2016 augment CIFAR."""

    side: int
    """Side of the crops in pixels, the network's input."""
    padding: int = 4
    """Pixels by which images are padded on each side."""
    border: Padding = "reflect"
    """What they are padded with: the image mirrored at its outermost pixels, or zeros."""
    mirror: bool = True
    """Whether training mirrors images at random, which digits do not bear."""

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side: {self.side}, must be at least 1")
        if self.padding < 0:
            raise ValueError(f"padding: {self.padding}, must be at least 0")

    def draw(self, count: int, height: int, width: int, rng: np.random.Generator | None) -> CropDraws:
        """Decide where images of a size are cropped; without `rng` in the middle, not mirrored."""
        rows, columns = height - self.side, width - self.side
        if rng is None:
            return CropDraws(np.full(count, rows // 2), np.full(count, columns // 2), np.zeros(count, np.bool_))
        top = rng.integers(-self.padding, rows + self.padding + 1, count)
        left = rng.integers(-self.padding, columns + self.padding + 1, count)
        return CropDraws(top, left, (rng.random(count) < 0.5) & self.mirror)

    def cut(self, batch: Batch) -> UInt8[Tensor, "batch {self.side} {self.side} channels"]:
        """The images of a batch, 0 to 255, cropped and mirrored as drawn, on the device where they are."""
        draws = CropDraws(*batch.draws)
        return crop_and_mirror(batch.images, draws.top, draws.left, draws.mirrored, self.side, self.border)


class ResidentImages(Samples):
    """Labelled images of one size in memory; a batch has them uncropped, and `PaddedCrop.cut` does the rest.

    Args:
        images: 0 to 255; RGB, or grey in one channel.
        labels: class of each, 0 to classes - 1.
        classes: how many there are.
        crop: how they are cropped.

    Raises:
        FacegmError: the arrays are not of these shapes, types or ranges, or the crop does not go with them.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "samples height width channels"],
        labels: Integer[np.ndarray, " samples"],
        *,
        classes: int,
        crop: PaddedCrop,
    ) -> None:
        _check_images(images, crop)
        self.labels = checked_labels(labels, len(images), classes)
        self.keys = tuple(f"image {number}" for number in range(len(images)))
        self.classes, self._crop = classes, crop
        self._images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        self._labels = torch.from_numpy(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of all pixels and labels."""
        return hashlib.sha256(self._images.cpu().numpy().tobytes() + self.labels.tobytes()).hexdigest()[:16]

    @property
    def image_bytes(self) -> int:
        """Bytes of an image, uncropped."""
        return self._images[0].nbytes

    @property
    def can_be_kept(self) -> bool:
        """Always."""
        return True

    @property
    def is_in_memory(self) -> bool:
        """Always."""
        return True

    def keep_decoded(self, device: torch.device) -> None:
        """Bring images and labels to a device."""
        self._images, self._labels = self._images.to(device), self._labels.to(device)

    def draw(self, numbers: Int64[np.ndarray, " batch"], rng: np.random.Generator | None) -> CropDraws:
        """Crop and mirror at random; without `rng` the middle as it is."""
        height, width = self._images.shape[1:3]
        return self._crop.draw(len(numbers), height, width, rng)

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        number = torch.from_numpy(drawn.numbers).to(self._images.device, non_blocking=True)
        images, labels = self._images.index_select(0, number), self._labels.index_select(0, number)
        return Batch(images, labels, CropDraws(*map(torch.from_numpy, drawn.draws)))


def _check_images(images: UInt8[np.ndarray, "samples height width channels"], crop: PaddedCrop) -> None:
    if images.dtype != np.uint8:
        raise FacegmError(f"images: uint8, 0 to 255, is needed, found {images.dtype}")
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise FacegmError(
            f"images: [samples, height, width, channels] with 1 channel (grey) or 3 (RGB) is needed, found "
            f"{list(images.shape)}"
        )
    height, width = images.shape[1:3]
    if crop.side > min(height, width) + 2 * crop.padding:
        raise FacegmError(
            f"crops of {crop.side} pixels do not fit into images of {height} x {width} padded by {crop.padding}; lower "
            "the crop's side or raise its padding"
        )
    if crop.border == "reflect" and crop.padding >= min(height, width):
        raise FacegmError(
            f"images of {height} x {width} cannot be padded by {crop.padding} pixels of themselves; lower the crop's "
            "padding or pad with zeros"
        )
