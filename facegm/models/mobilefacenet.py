"""MobileFaceNet: Chen, Liu, Gao and Han 2018 (arXiv 1804.07573), table 1."""

from jaxtyping import Float
from torch import Tensor, nn

from facegm.models.face_base import FaceNetwork, conv_norm, conv_norm_prelu, convolution, halved, scaled

STEM_CHANNELS = 64
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, channels at full width, how many, and the stride of the first of them."""
HEAD_CHANNELS = 512


class MobileFaceNet(FaceNetwork):
    """Inverted bottlenecks, and a depthwise convolution over the whole last map in place of a mean.

    Each convolution has batch normalisation behind it and, but for the linear ones, a PReLU. The last linear
    convolution of 1x1 is the linear layer to the embedding; the published batch normalisation behind it is left out
    (see `FaceNetwork`), and its shift is the layer's bias. At full width, 112x112 pixels and the paper's 128 dimensions
    it has 1,003,008 parameters; 0.99 million, as in the paper, with batch normalisation folded into the convolutions.
    """

    label = "MobileFaceNet"
    minimum_input = 17
    """The smallest of which more than one pixel is left after the four halvings."""

    def _build_trunk(self, width: float) -> tuple[nn.Sequential, int]:
        channels, head = scaled(STEM_CHANNELS, width), scaled(HEAD_CHANNELS, width)
        layers: list[nn.Module] = [
            conv_norm_prelu(3, channels, 3, stride=2),
            conv_norm_prelu(channels, channels, 3, groups=channels),
        ]
        for expansion, at_full_width, count, stride in BOTTLENECKS:
            outgoing = scaled(at_full_width, width)
            for i in range(count):
                layers.append(Bottleneck(channels, outgoing, expansion, stride=stride if i == 0 else 1))
                channels = outgoing
        side = halved(self.input_size, 4)
        layers += [
            conv_norm_prelu(channels, head, 1),
            convolution(head, head, side, groups=head),
            nn.BatchNorm2d(head),
        ]
        return nn.Sequential(*layers), head


class Bottleneck(nn.Module):
    """Expansion by 1x1, depthwise 3x3, linear projection by 1x1; added to its input where the shapes are the same.

    Args:
        incoming: channels of the input.
        outgoing: channels of the output.
        expansion: channels between, over those of the input.
        stride: of the depthwise convolution; with 2 there is no addition.
    """

    def __init__(self, incoming: int, outgoing: int, expansion: int, *, stride: int) -> None:
        super().__init__()
        inner = expansion * incoming
        self.body = nn.Sequential(
            conv_norm_prelu(incoming, inner, 1),
            conv_norm_prelu(inner, inner, 3, stride=stride, groups=inner),
            conv_norm(inner, outgoing, 1),
        )
        self.is_residual = stride == 1 and incoming == outgoing

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outgoing rows columns"]:
        """The projection, or the input corrected by it."""
        projected: Tensor = self.body(x)
        return x + projected if self.is_residual else projected
