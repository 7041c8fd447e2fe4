"""A classifier of points of the plane, each an image of two pixels, whose classes are Gaussians around three means."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from facegm.adversarial.subject import Subject

MEANS = torch.tensor([[2.0, 5.0], [8.0, 5.0], [5.0, 9.0]], dtype=torch.float64)
SCALE = 10.0
"""From pixels to features."""


class Plane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(MEANS.clone())

    def features(self, images: Tensor) -> Tensor:
        return SCALE * images.flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        return -0.5 * torch.cdist(features, self.means).square()


def plane_subject() -> Subject:
    plane = Plane().eval()
    return Subject(module=plane, features=plane.features, logits=plane.logits)


def images_at(points: Float[Tensor, "count 2"]) -> Float[Tensor, "count 1 1 2"]:
    """The images whose features such points are."""
    return (points / SCALE).reshape(-1, 1, 1, 2)


def points_of(images: Float[Tensor, "count 1 1 2"]) -> Float[Tensor, "count 2"]:
    return SCALE * images.flatten(1)
