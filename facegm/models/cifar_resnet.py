"""The residual networks that He et al. 2016 built for CIFAR (section 4.2 of theirs), with shortcuts without weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (16, 32, 64)
"""Of each stage; the last is the length of a feature."""


class CifarResNet(nn.Module):
    """6n + 1 convolutions of 3x3 with batch normalisation, and the mean over the last map.

    A shortcut that meets twice the channels takes every other pixel and has zeros for the new channels (option A). The
    weights begin as He et al. 2015 have it. Of 20, 32, 56 and 110 layers it has 269,072, 463,504, 852,368 and
    1,727,312 parameters for RGB images; the last of the layers is the loss's.

    Args:
        depth: number of layers, 6n + 2.
        channels: of the images: 3 for RGB, 1 for grey.

    Raises:
        ValueError: there is no network of that depth.
    """

    def __init__(self, depth: int, *, channels: int = 3) -> None:
        super().__init__()
        units, rest = divmod(depth - 2, 6)
        if rest or units < 1:
            raise ValueError(f"depth: {depth}, must be 6n + 2, such as 20")
        layers: list[nn.Module] = [*_conv(channels, CHANNELS[0]), nn.ReLU(inplace=True)]
        incoming = CHANNELS[0]
        for outgoing in CHANNELS:
            for _ in range(units):
                layers.append(BasicBlock(incoming, outgoing))
                incoming = outgoing
        self.trunk = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 64"]:
        """Features, none of them negative, of images of any size."""
        features: Tensor = self.trunk(images).mean((2, 3))
        return features


class BasicBlock(nn.Module):
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))); where the channels grow, the first convolution has a stride of 2."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self._new_channels = outgoing - incoming
        stride = 2 if self._new_channels else 1
        self.body = nn.Sequential(*_conv(incoming, outgoing, stride), nn.ReLU(inplace=True), *_conv(outgoing, outgoing))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outgoing rows columns"]:
        """Add the block's correction to its input, where need be at every other pixel and with channels of zeros."""
        shortcut = x
        if self._new_channels:
            before = self._new_channels // 2
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self._new_channels - before))
        return torch.relu(shortcut + self.body(x))


def _conv(incoming: int, outgoing: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outgoing)
