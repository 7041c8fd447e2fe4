"""How a network sees images of classes: each channel less a mean, divided by a deviation."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """From pixels to the network's input: (pixel / 255 - mean) / std, RGB or grey."""

    mean: list[float] = field(default_factory=lambda: [0.5])
    """A number a channel, or one for all, on a scale of 0 to 1."""
    std: list[float] = field(default_factory=lambda: [0.5])
    """Likewise, above 0."""

    def __post_init__(self) -> None:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, 3):
                raise ValueError(f"{name}: {numbers}, must be one number, or three for RGB")
            if not all(map(math.isfinite, numbers)):
                raise ValueError(f"{name}: {numbers}, must be finite")
        if not all(number > 0 for number in self.std):
            raise ValueError(f"std: {self.std}, must be above 0")


class Normalization(nn.Module):
    """From images on a scale of 0 to 1 to the network's input; differentiable.

    Args:
        preprocessing: mean and deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: ImagePreprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):  # on the device, so that a step may be captured
            numbers = torch.tensor(getattr(preprocessing, name)).view(-1, 1, 1)
            self.register_buffer(name, numbers, persistent=False)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """(image - mean) / std."""
        return (images - self.mean) / self.std


def unit_images(pixels: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "batch channels height width"]:
    """Pixels of 0 to 255 on a scale of 0 to 1, channels last in memory order, in torch's default precision."""
    return pixels.permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255
