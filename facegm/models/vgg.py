"""The VGG-like network for CIFAR-100 of Liu et al.'s L-Softmax, with the mean over the last map in place of a layer."""

from jaxtyping import Float
from torch import Tensor, nn

STAGES = ((96, 5), (192, 4), (384, 4))
"""Channels of each stage, and its number of convolutions; the last is the length of a feature."""
BATCH_NORM_MOMENTUM = 0.03
"""Weight of a batch in the running statistics, as Caffe's default."""


class VGG13(nn.Module):
    """13 convolutions of 3x3 without bias, batch normalisation and ReLU after each, two max-poolings, a global mean.

    The weights begin as He et al. 2015 have it, by what goes out. For RGB it has 6,146,016 parameters.

    Args:
        channels: of the images: 3 for RGB, 1 for grey.
    """

    def __init__(self, *, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outgoing, convolutions in STAGES:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                conv = nn.Conv2d(channels, outgoing, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                norm = nn.BatchNorm2d(outgoing, momentum=BATCH_NORM_MOMENTUM)
                layers += [conv, norm, nn.ReLU(inplace=True)]
                channels = outgoing
        self.trunk = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 384"]:
        """Features, none of them negative, of images of any size."""
        features: Tensor = self.trunk(images).mean((2, 3))
        return features
