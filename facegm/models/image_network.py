"""Which network a run for images of classes trains, by name; each ends in features, to which the loss adds its own."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from facegm.models.cifar_resnet import CHANNELS as CIFAR_CHANNELS
from facegm.models.cifar_resnet import CifarResNet
from facegm.models.lenet import SIDE, LeNetPlusPlus
from facegm.models.vgg import STAGES, VGG13

ImageNetworkName = Literal[
    "lenet_plus_plus",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet110",
    "vgg13",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50",
    "seresnet50",
]
CIFAR_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet56": 56, "resnet110": 110}
TORCHVISION_NAMES = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnext50": "resnext50_32x4d",
}


@dataclass(frozen=True, kw_only=True)
class ImageModelConfig:
    """The network."""

    name: ImageNetworkName = "lenet_plus_plus"
    """lenet_plus_plus for digits of 28x28; resnet20, resnet32, resnet56, resnet110 and vgg13 for small images, as of
    CIFAR; resnet18, resnet50, resnet101, resnext50 and seresnet50 (which needs timm) for photos."""
    feature_dim: int = 100
    """Length of a feature of lenet_plus_plus, which alone ends in a layer of any length."""
    feature_relu: bool = False
    """Whether the features of lenet_plus_plus go through a ReLU, as in the paper's table 1."""

    feature_dropout: float = 0.0
    """The chance that a number of a feature is dropped out in training; 0.5 for the detector KD+BU."""

    def __post_init__(self) -> None:
        if self.feature_dim < 1:
            raise ValueError(f"feature_dim: {self.feature_dim}, must be at least 1")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(f"feature_dropout: {self.feature_dropout}, must be from 0 to below 1")
        for key in ("feature_dim", "feature_relu"):
            value, default = getattr(self, key), getattr(ImageModelConfig, key)
            if self.name != "lenet_plus_plus" and value != default:
                raise ValueError(f"{key}: {value}, must be {default} for {self.name}; it is lenet_plus_plus's alone")

    @property
    def input_side(self) -> int | None:
        """Side in pixels of the only input that the network takes; None where it takes any."""
        return SIDE if self.name == "lenet_plus_plus" else None


def build_image_network(config: ImageModelConfig, channels: int) -> tuple[nn.Module, int]:
    """A new network, and the length of its features.

    Args:
        config: which.
        channels: of the images: 1 for grey, 3 for RGB.

    Raises:
        ValueError: the network takes no grey images.
        ImportError: it is timm's, which is not installed.
    """
    network, dim = _without_dropout(config, channels)
    return nn.Sequential(network, nn.Dropout(config.feature_dropout)) if config.feature_dropout else network, dim


def _without_dropout(config: ImageModelConfig, channels: int) -> tuple[nn.Module, int]:
    if config.name == "lenet_plus_plus":
        return LeNetPlusPlus(config.feature_dim, channels=channels, relu=config.feature_relu), config.feature_dim
    if config.name in CIFAR_DEPTHS:
        return CifarResNet(CIFAR_DEPTHS[config.name], channels=channels), CIFAR_CHANNELS[-1]
    if config.name == "vgg13":
        return VGG13(channels=channels), STAGES[-1][0]
    if channels != 3:
        raise ValueError(f"name: {config.name}, takes RGB images, and these are grey; take resnet20, say")
    return _timm_body(config.name) if config.name == "seresnet50" else _torchvision_body(TORCHVISION_NAMES[config.name])


def _torchvision_body(name: str) -> tuple[nn.Module, int]:
    """One of torchvision's residual networks without its last layer."""
    import torchvision.models

    network = getattr(torchvision.models, name)(weights=None)
    dim = network.fc.in_features
    network.fc = nn.Identity()
    return network, dim


def _timm_body(name: str) -> tuple[nn.Module, int]:
    """One of timm's networks without its last layer."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"name: {name} is timm's; install it: pip install 'facegm[timm]'") from error
    network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return network, int(network.num_features)
