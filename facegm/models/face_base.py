"""What all face networks have in common: a trunk of convolutions, dropout, and one linear layer to the embedding."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class FaceNetwork(nn.Module, ABC):
    """From square faces to embeddings that are not normalised.

    The linear layer is the last one in all of them. IResNet and MobileFaceNet were published with batch normalisation
    behind it, which gives each dimension of the embedding variance 1 and so fixes its length, at sqrt(512) of 512
    dimensions. The GM loss finds the length itself (its means lie about 4 from their centre at 10,575 identities), and
    its authors took that layer out; here it is out for every loss, since angular losses normalise embeddings anyway,
    and a network is the same whatever it is trained with.

    Args:
        input_size: side of the square input in pixels, `minimum_input` at least.
        width: multiplies all channels.
        embedding_dim: length of the embedding.
        dropout: share of the last layer's inputs that are set to 0 at random while training.

    Raises:
        ValueError: the input is too small.
    """

    label: ClassVar[str]
    """Its name in reports."""
    minimum_input: ClassVar[int]
    """Side in pixels of the smallest input."""
    has_batch_norm: ClassVar[bool] = True
    """Whether its training needs the statistics of several faces."""

    def __init__(self, *, input_size: int, width: float = 1.0, embedding_dim: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.require_input(input_size)
        self.input_size, self.embedding_dim = input_size, embedding_dim
        self.trunk, features = self._build_trunk(width)
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(features, embedding_dim)
        self._start(self.embedding)

    @classmethod
    def require_input(cls, side: int) -> None:
        """Refuse an input that is too small.

        Raises:
            ValueError: it is; the message names the key of a configuration.
        """
        if side < cls.minimum_input:
            raise ValueError(
                f"preprocessing.crop_size: {side}, the network needs at least {cls.minimum_input} pixels ({cls.label})"
            )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embed square faces, scaled as `facegm.data.preprocessing` says; the embedding is not normalised."""
        embedding: Tensor = self.embedding(self.dropout(self.trunk(images).flatten(1)))
        return embedding

    @abstractmethod
    def _build_trunk(self, width: float) -> tuple[nn.Sequential, int]:
        """The layers in front of the last one, for `input_size`, and how many numbers of a face they end with."""

    def _start(self, embedding: nn.Linear) -> None:
        """Behind normalised features, embeddings begin about as long as the GM loss's means: near length 1."""
        nn.init.normal_(embedding.weight, std=embedding.weight.numel() ** -0.5)
        nn.init.zeros_(embedding.bias)


def scaled(channels: int, width: float) -> int:
    """A number of channels at another width, 1 at least."""
    return max(1, round(channels * width))


def halved(side: int, times: int) -> int:
    """The side of a feature map after so many padded convolutions of stride 2, which round up."""
    return -(-side // (1 << times))


def conv_norm(incoming: int, outgoing: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, padded to keep the side at stride 1, and batch normalisation."""
    conv = convolution(incoming, outgoing, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outgoing))


def conv_norm_prelu(incoming: int, outgoing: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """The same and a PReLU with a slope for each channel."""
    return conv_norm(incoming, outgoing, kernel, stride=stride, groups=groups).append(nn.PReLU(outgoing))


def convolution(
    incoming: int, outgoing: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias, with He's start for a PReLU, whose slope begins at 0.25."""
    conv = nn.Conv2d(incoming, outgoing, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=0.25)
    return conv
