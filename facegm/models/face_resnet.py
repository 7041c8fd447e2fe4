"""ResNet-27 with PReLU for faces: the network of Wen et al.'s center loss, used by the GM loss paper (section 4.3)."""

from jaxtyping import Float
from torch import Tensor, nn

from facegm.models.face_base import FaceNetwork, scaled

STAGES = ((64, 1), (128, 2), (256, 5), (512, 3))
"""Channels of each stage's convolution at full width, and the number of residual units behind it."""
STEM_CHANNELS = 32


class FaceResNet27(FaceNetwork):
    """27 convolutions of 3x3 without batch normalisation, a PReLU after each, and one linear layer to the embedding.

    The convolution in front of each stage has no padding and a bias; those of the residual units have padding and no
    bias. At full width and 120x120 input it has 28,847,520 parameters.
    """

    label = "ResNet-27"
    minimum_input = 48
    """The smallest that survives the four poolings."""
    has_batch_norm = False

    def _build_trunk(self, width: float) -> tuple[nn.Sequential, int]:
        stem, *channels = (scaled(c, width) for c in (STEM_CHANNELS, *(c for c, _ in STAGES)))
        layers: list[nn.Module] = [_conv(3, stem), nn.PReLU(stem)]
        side = self.input_size - 2
        for incoming, outgoing, (_, units) in zip([stem, *channels], channels, STAGES, strict=False):
            layers += [_conv(incoming, outgoing), nn.PReLU(outgoing), nn.MaxPool2d(2)]
            layers += [ResidualUnit(outgoing) for _ in range(units)]
            side = (side - 2) // 2
        return nn.Sequential(*layers), channels[-1] * side * side

    def _start(self, embedding: nn.Linear) -> None:
        _xavier_(embedding)


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
