"""Networks of a few weights to attack: with logits of either sign, of the GM loss, and with a planted adversarial."""

from typing import Literal

import torch
from torch import Tensor, nn

from facegm.adversarial.subject import UNIT_RANGE, PixelRange, Subject

Kind = Literal["positive", "gm", "rce"]
KINDS: tuple[Kind, ...] = ("positive", "gm", "rce")
CLASSES, DIM = 4, 6
SHAPE = (2, 7, 6)
"""Channels, height and width."""


class SmallNetwork(nn.Module):
    """A convolution, a smooth bend and a linear layer; images of any range, in double precision."""

    def __init__(self, kind: Kind, pixel_range: PixelRange) -> None:
        super().__init__()
        self.kind, self.pixel_range = kind, pixel_range
        self.conv = nn.Conv2d(SHAPE[0], 3, 3, stride=2)
        self.linear = nn.Linear(3 * 3 * 2, DIM)
        self.last = nn.Linear(DIM, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        unit = (images - self.pixel_range.low) / self.pixel_range.width
        features: Tensor = self.linear(self.conv(4 * (unit - 0.5)).tanh().flatten(1))
        return features

    def logits(self, features: Tensor) -> Tensor:
        if self.kind == "gm":
            return -(features[:, None] - self.last.weight).square().sum(dim=2) / 2
        logits: Tensor = self.last(features)
        return logits + 30 if self.kind == "positive" else logits - 30

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def small_subject(kind: Kind = "gm", pixel_range: PixelRange = UNIT_RANGE, seed: int = 0) -> Subject:
    """With all logits positive, or negative as those of the GM loss and of RCE are."""
    rng = torch.Generator().manual_seed(seed)
    network = SmallNetwork(kind, pixel_range).double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng, dtype=torch.float64) / 2)
    return Subject(module=network, features=network.features, logits=network.logits, pixel_range=pixel_range)


def some_images(count: int, pixel_range: PixelRange = UNIT_RANGE, seed: int = 1) -> Tensor:
    """Of the whole range, some pixels at its bounds."""
    rng = torch.Generator().manual_seed(seed)
    unit = (1.4 * torch.rand(count, *SHAPE, generator=rng, dtype=torch.float64) - 0.2).clamp(0, 1)
    return pixel_range.low + pixel_range.width * unit


@torch.no_grad()
def planted_subject(image: Tensor, epsilon: float, seed: int) -> Subject:
    """A network that takes what is around an image for class 0, but a point of its L-infinity ball for class 1.

    After the test for attacks of Zimmermann et al. 2022: a last layer tells the planted point from 2,000 random ones of
    the ball, by a boundary close to it. An attack that works finds what is surely there.

    Args:
        image: of a pixel range of 0 to 1: [1, channels, height, width].
        epsilon: of the ball.
        seed: of the points.
    """
    rng = torch.Generator().manual_seed(seed)
    linear = nn.Linear(image.numel(), 60)
    linear.weight.copy_(torch.randn(linear.weight.shape, generator=rng) / image.numel() ** 0.5)
    linear.bias.zero_()
    layers = nn.Sequential(nn.Flatten(), linear, nn.Tanh()).double().eval()
    noise = 2 * torch.rand(2001, *SHAPE, generator=rng, dtype=torch.float64) - 1
    noise[0] = noise[0].sign()
    features = layers((image + epsilon * noise).clamp(0, 1))
    normal = torch.linalg.solve(torch.cov(features[1:].T), features[0] - features[1:].mean(dim=0))
    along = features @ normal
    assert along[1:].amax() < along[0]
    bound = 0.1 * along[1:].amax() + 0.9 * along[0]

    def logits(features: Tensor) -> Tensor:
        lead = features @ normal - bound
        return torch.stack([-lead, lead], dim=1) - 1000

    return Subject(module=layers, features=layers, logits=logits)


def hyperplane_subject(normal: Tensor, offset: float, pixel_range: PixelRange = UNIT_RANGE) -> Subject:
    """Two classes on both sides of <normal, image> = offset, the second where it is more; all logits are negative.

    The nearest image of the other class lies |<normal, image> - offset| / ||normal|| away.
    """
    linear = nn.Linear(normal.numel(), 1).double()
    with torch.no_grad():
        linear.weight.copy_(normal.flatten()[None])
        linear.bias.fill_(-offset)
    layers = nn.Sequential(nn.Flatten(), linear).eval()

    def logits(features: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(features), features], dim=1) - 1000

    return Subject(module=layers, features=layers, logits=logits, pixel_range=pixel_range)
