"""What is attacked: a network with its pixel range, and the look that is taken at it before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch channels height width"]


class PixelRange(NamedTuple):
    """The values that a pixel may have."""

    low: float = 0.0
    high: float = 1.0

    @property
    def width(self) -> float:
        """Of the range: the paper's bounds and steps are for a width of 1."""
        return self.high - self.low

    def clamp(self, images: Images) -> Images:
        """Images with no pixel outside of the range."""
        return images.clamp(self.low, self.high)

    def ball(self, images: Images, epsilon: float) -> tuple[Images, Images]:
        """The least and the greatest that each pixel may be, within the range and `epsilon` of images."""
        return (images - epsilon).clamp(min=self.low), (images + epsilon).clamp(max=self.high)


UNIT_RANGE = PixelRange()


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A classifier under attack: images of its pixel range to features, and features to logits; differentiable."""

    module: nn.Module
    """All of it; in evaluation mode."""
    features: Callable[[Images], Float[Tensor, "batch dim"]]
    """What detectors of features look at: the input of the last layer."""
    logits: Callable[[Float[Tensor, "batch dim"]], Float[Tensor, "batch classes"]]
    """Of features, without margin: the largest is the predicted class."""
    pixel_range: PixelRange = UNIT_RANGE

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device


class Outputs(NamedTuple):
    """What a subject makes of images."""

    features: Float[Tensor, "batch dim"]
    logits: Float[Tensor, "batch classes"]


def outputs_of(subject: Subject, images: Images) -> Outputs:
    """Features and logits of images, differentiable."""
    features = subject.features(images)
    return Outputs(features, subject.logits(features))
