"""IResNet-50 and -100: the residual networks of ArcFace (Deng et al. 2019, section 2.2.1 and its released code)."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from facegm.models.face_base import FaceNetwork, conv_norm, conv_norm_prelu, halved, scaled

CHANNELS = (64, 128, 256, 512)
"""Of the four stages at full width; the stem has those of the first."""


class IResNet(FaceNetwork):
    """Four stages of residual units, the first unit of each with stride 2, on a stem that keeps the input's side.

    Behind the last stage: batch normalisation, dropout, and the linear layer to the embedding, without the published
    batch normalisation behind that (see `FaceNetwork`). At full width, 112x112 pixels and 512 dimensions IResNet-50 has
    43,589,824 parameters, IResNet-100 65,155,136.
    """

    units: ClassVar[tuple[int, int, int, int]]
    """Residual units of each stage."""
    minimum_input = 17
    """The smallest of which more than one pixel is left after the four halvings."""

    def _build_trunk(self, width: float) -> tuple[nn.Sequential, int]:
        channels = [scaled(c, width) for c in CHANNELS]
        layers: list[nn.Module] = [conv_norm_prelu(3, channels[0], 3)]
        for incoming, outgoing, units in zip([channels[0], *channels], channels, self.units, strict=False):
            layers += [IResidualUnit(incoming if i == 0 else outgoing, outgoing, first=i == 0) for i in range(units)]
        return nn.Sequential(*layers, nn.BatchNorm2d(channels[-1])), channels[-1] * halved(self.input_size, 4) ** 2


class IResNet50(IResNet):
    """24 residual units of two convolutions."""

    label = "IResNet-50"
    units = (3, 4, 14, 3)


class IResNet100(IResNet):
    """49 residual units of two convolutions."""

    label = "IResNet-100"
    units = (3, 13, 30, 3)


class IResidualUnit(nn.Module):
    """shortcut(x) + BN(conv(PReLU(BN(conv(BN(x)))))), convolutions of 3x3, with nothing after the addition.

    Args:
        incoming: channels of the input.
        outgoing: channels of both convolutions.
        first: whether it begins a stage: the second convolution has stride 2, and the shortcut is a convolution of 1x1
            with stride 2 and batch normalisation.
    """

    def __init__(self, incoming: int, outgoing: int, *, first: bool) -> None:
        super().__init__()
        stride = 2 if first else 1
        self.body = nn.Sequential(
            nn.BatchNorm2d(incoming),
            conv_norm_prelu(incoming, outgoing, 3),
            conv_norm(outgoing, outgoing, 3, stride=stride),
        )
        self.stride = stride
        self.shortcut = conv_norm(incoming, outgoing, 1) if first else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outgoing rows columns"]:
        """Add the unit's correction to its shortcut.

        Every other pixel is picked here, and not by the convolution of 1x1: the gradient of that, with stride 2 and few
        channels that lie last in memory, has made torch 2.14 crash on a CPU.
        """
        kept = x[:, :, :: self.stride, :: self.stride]
        corrected: Tensor = self.shortcut(kept) + self.body(x)
        return corrected
