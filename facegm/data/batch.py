"""A batch of training images on its way to the network."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from facegm.data.draws import Draws


class Batch(NamedTuple):
    """Resized images, and what is left to do with them on the device; see `facegm.data.draws.Draws`."""

    images: UInt8[Tensor, "batch height width channels"]
    """0 to 255; RGB, or grey in one channel."""
    label: Int64[Tensor, " batch"]
    top: Int64[Tensor, " batch"]
    left: Int64[Tensor, " batch"]
    mirrored: Bool[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    brightness: Float[Tensor, " batch"]

    @classmethod
    def of(cls, images: Tensor, labels: Int64[Tensor, " batch"], draws: Draws) -> "Batch":
        """Join the images that were drawn with their labels and augmentation."""
        return cls(images, labels, *map(torch.from_numpy, draws[1:]))

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from pinned memory the host does not wait."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch cut into `count` parts of one size."""
        return (Batch(*part) for part in zip(*(values.chunk(count) for values in self), strict=True))
