"""ResNet-27 with PReLU for faces: the network of Wen et al.'s center loss, used by the GM loss paper (section 4.3)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

STAGES = ((64, 1), (128, 2), (256, 5), (512, 3))
"""Channels of each stage's convolution at full width, and the number of residual units behind it."""
STEM_CHANNELS = 32
MINIMUM_INPUT = 48
"""Side in pixels of the smallest input that survives the four poolings."""


@dataclass(frozen=True, kw_only=True)
class FaceResNetConfig:
    """The shape of the network."""

    width: float = 1.0
    """Multiplies all channels; 1 is the paper's network."""
    embedding_dim: int = 512
    """Length of the embedding."""
    dropout: float = 0.0
    """Share of the last layer's inputs that are set to 0 at random while training."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 8:
            raise ValueError(f"width: {self.width}, must be above 0 and at most 8")
        if self.embedding_dim < 1:
            raise ValueError(f"embedding_dim: {self.embedding_dim}, must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}, must be at least 0 and below 1")


class FaceResNet27(nn.Module):
    """27 convolutions of 3x3 without batch normalisation, a PReLU after each, and one linear layer to the embedding.

    The convolution in front of each stage has no padding and a bias; those of the residual units have padding and no
    bias. At full width and 120x120 input it has 28,847,520 parameters.

    Args:
        config: width and length of the embedding.
        input_size: side of the square input in pixels; 48 at least.

    Raises:
        ValueError: the input is too small for the four poolings.
    """

    def __init__(self, config: FaceResNetConfig, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        stem, *channels = (max(1, round(c * config.width)) for c in (STEM_CHANNELS, *(c for c, _ in STAGES)))
        layers: list[nn.Module] = [_conv(3, stem), nn.PReLU(stem)]
        if input_size < MINIMUM_INPUT:
            raise ValueError(
                f"input size {input_size} is too small: the face network needs at least {MINIMUM_INPUT} pixels"
            )
        side = input_size - 2
        for incoming, outgoing, (_, units) in zip([stem, *channels], channels, STAGES, strict=False):
            layers += [_conv(incoming, outgoing), nn.PReLU(outgoing), nn.MaxPool2d(2)]
            layers += [ResidualUnit(outgoing) for _ in range(units)]
            side = (side - 2) // 2
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding = nn.Linear(channels[-1] * side * side, config.embedding_dim)
        _xavier_(self.embedding)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embed square faces, scaled as `facegm.data.preprocessing` says; the embedding is not normalised."""
        embedding: Tensor = self.embedding(self.dropout(self.trunk(images).flatten(1)))
        return embedding


class ResidualUnit(nn.Module):
    """x + PReLU(conv(PReLU(conv(x)))), with nothing after the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        for conv in (first, second):
            nn.init.normal_(conv.weight, std=0.01)
        self.body = nn.Sequential(first, nn.PReLU(channels), second, nn.PReLU(channels))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Add the unit's correction to its input."""
        corrected: Tensor = x + self.body(x)
        return corrected


def _conv(incoming: int, outgoing: int) -> nn.Conv2d:
    conv = nn.Conv2d(incoming, outgoing, 3)
    _xavier_(conv)
    return conv


def _xavier_(layer: nn.Conv2d | nn.Linear) -> None:
    """Caffe's Xavier: uniform with bound sqrt(3 / fan_in). Without normalisation a larger start blows up."""
    assert layer.bias is not None
    fan_in = layer.weight[0].numel()
    bound = (3 / fan_in) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
