"""The networks for faces by their names in a configuration."""

from dataclasses import asdict, dataclass
from typing import Literal

from facegm.models.face_base import FaceNetwork
from facegm.models.face_resnet import FaceResNet27
from facegm.models.iresnet import IResNet50, IResNet100
from facegm.models.mobilefacenet import MobileFaceNet

FaceModelName = Literal["resnet27", "iresnet50", "iresnet100", "mobilefacenet"]
_NETWORKS: dict[FaceModelName, type[FaceNetwork]] = {
    "resnet27": FaceResNet27,
    "iresnet50": IResNet50,
    "iresnet100": IResNet100,
    "mobilefacenet": MobileFaceNet,
}

ARCHITECTURES: dict[str, FaceModelName] = {network.__name__: name for name, network in _NETWORKS.items()}
"""What exported embedders call the networks, and their names."""


@dataclass(frozen=True, kw_only=True)
class FaceModelConfig:
    """The network and its shape."""

    name: FaceModelName = "resnet27"
    """The network: resnet27 (the paper's), iresnet50 or iresnet100 (ArcFace's), or mobilefacenet; the last three are
    usually given 112x112 pixels."""
    width: float = 1.0
    """Multiplies all channels; 1 is the published network."""
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


def network_class(config: FaceModelConfig) -> type[FaceNetwork]:
    """What a configuration's network is one of."""
    return _NETWORKS[config.name]


def build_face_network(config: FaceModelConfig, input_size: int) -> FaceNetwork:
    """A new network, with random weights.

    Args:
        config: which, and its shape.
        input_size: side of the square input in pixels.

    Raises:
        ValueError: the input is too small for it.
    """
    shape = asdict(config)
    return _NETWORKS[shape.pop("name")](input_size=input_size, **shape)
