"""LeNet++, the network for digits of the GM loss paper (section 4.1): that of Wen et al.'s center loss."""

from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = (32, 64, 128)
"""Of each pair of convolutions."""
SIDE = 28
"""Of the images, in pixels."""


class LeNetPlusPlus(nn.Module):
    """Six convolutions of 5x5, a PReLU of one slope after each, a max-pooling after every other, one linear layer.

    There is no normalisation, and the layers begin as torch begins them. With features of 2 numbers it has 797,160
    parameters, with 100 it has 910,154.

    Args:
        feature_dim: length of a feature.
        channels: of the images: 1 for grey, 3 for RGB.
        relu: whether features are what is positive of the linear layer's output.
    """

    def __init__(self, feature_dim: int, *, channels: int = 1, relu: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outgoing in CHANNELS:
            for incoming in (channels, outgoing):
                layers += [nn.Conv2d(incoming, outgoing, 5, padding=2), nn.PReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = outgoing
        self.trunk = nn.Sequential(*layers)
        self.features = nn.Linear(CHANNELS[-1] * (SIDE // 2 ** len(CHANNELS)) ** 2, feature_dim)
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, images: Float[Tensor, "batch channels 28 28"]) -> Float[Tensor, "batch dim"]:
        """Features of images of 28x28 pixels."""
        features: Tensor = self.activation(self.features(self.trunk(images).flatten(1)))
        return features
