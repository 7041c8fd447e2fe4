"""A face network in the operations of another runtime: one walk over its layers, whatever the operations are."""

from typing import Protocol, TypeVar

from torch import nn

from facegm.models.face_base import FaceNetwork
from facegm.models.face_resnet import ResidualUnit
from facegm.models.iresnet import IResidualUnit
from facegm.models.mobilefacenet import Bottleneck

Value = TypeVar("Value")
"""What a runtime calls the result of an operation."""


class Operations(Protocol[Value]):
    """The layers of face networks and what lies between them, as a runtime has them; maps are [batch, C, H, W]."""

    def convolve(self, layer: nn.Conv2d, x: Value) -> Value:
        """A convolution, perhaps in groups, with zeros around the map."""

    def normalise(self, layer: nn.BatchNorm2d, x: Value) -> Value:
        """A batch normalisation by the statistics of the training."""

    def prelu(self, layer: nn.PReLU, x: Value) -> Value:
        """A PReLU with a slope for each channel."""

    def max_pool(self, layer: nn.MaxPool2d, x: Value) -> Value:
        """A maximum of squares that do not overlap; what is left at the border is dropped."""

    def linear(self, layer: nn.Linear, x: Value) -> Value:
        """A linear layer with a bias, of [batch, features]."""

    def add(self, a: Value, b: Value) -> Value:
        """The sum of two of one shape."""

    def subsample(self, stride: int, x: Value) -> Value:
        """x[:, :, ::stride, ::stride]."""

    def flatten(self, x: Value) -> Value:
        """[batch, C, H, W] to [batch, C * H * W]."""


def translate(network: FaceNetwork, images: Value, operations: Operations[Value]) -> Value:
    """What a network makes of its input, in evaluation.

    Args:
        network: where its layers have been folded, as `facegm.models.quick_network` does, so is what comes of it.
        images: its input, [batch, 3, side, side].
        operations: of the runtime.

    Raises:
        TypeError: a layer that has no translation.
    """
    features = operations.flatten(_applied(network.trunk, images, operations))
    return _applied(network.embedding, features, operations)


def _applied(layer: nn.Module, x: Value, operations: Operations[Value]) -> Value:
    match layer:
        case nn.Sequential():
            for part in layer:
                x = _applied(part, x, operations)
            return x
        case ResidualUnit() | Bottleneck():
            corrected = _applied(layer.body, x, operations)
            return operations.add(x, corrected) if getattr(layer, "is_residual", True) else corrected
        case IResidualUnit():
            kept = x if layer.stride == 1 else operations.subsample(layer.stride, x)
            return operations.add(_applied(layer.shortcut, kept, operations), _applied(layer.body, x, operations))
        case nn.Conv2d():
            return operations.convolve(layer, x)
        case nn.BatchNorm2d():
            return operations.normalise(layer, x)
        case nn.PReLU():
            return operations.prelu(layer, x)
        case nn.MaxPool2d():
            return operations.max_pool(layer, x)
        case nn.Linear():
            return operations.linear(layer, x)
        case nn.Identity():
            return x
    raise TypeError(f"no translation of {type(layer).__name__}")
