"""The paper's own networks, written out: functions of a state dict's tensors in their order, whatever they are called.

In evaluation mode, differentiable, in the precision of the tensors.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

BATCH_NORM_EPSILON = 1e-5


def naive_lenet(weights: Iterable[Tensor], images: Tensor, *, is_relu: bool = False) -> Tensor:
    """conv5x5-PReLU twice, 2x2 max-pooling; three times, with 32, 64 and 128 channels; a linear layer."""
    tensors, x = iter(weights), images
    for channels in (32, 64, 128):
        for _ in range(2):
            kernel, bias, slope = next(tensors), next(tensors), next(tensors)
            assert kernel.shape == (channels, x.shape[1], 5, 5)
            assert slope.shape == (1,)
            x = conv2d(x, kernel, bias, padding=2)
            x = torch.where(x > 0, x, slope * x)
        x = max_pool2d(x, 2)
    kernel, bias = tensors
    x = x.reshape(len(x), -1) @ kernel.T + bias
    return x.clamp(min=0) if is_relu else x


def _normalized_conv(tensors: Iterator[Tensor], x: Tensor, channels: int, stride: int = 1) -> Tensor:
    """A 3x3 convolution without bias, and batch normalisation by running statistics."""
    kernel, scale, shift, mean, variance, _ = (next(tensors) for _ in range(6))
    assert kernel.shape == (channels, x.shape[1], 3, 3)
    x = conv2d(x, kernel, stride=stride, padding=1)
    scale, shift, mean, variance = (each[:, None, None] for each in (scale, shift, mean, variance))
    return (x - mean) / (variance + BATCH_NORM_EPSILON).sqrt() * scale + shift


def naive_cifar_resnet(weights: Iterable[Tensor], images: Tensor, units: int) -> Tensor:
    """conv3x3-16, then three stages of so many basic blocks with 16, 32 and 64 channels; the mean of the last map."""
    tensors = iter(weights)
    x = _normalized_conv(tensors, images, 16).clamp(min=0)
    for channels in (16, 32, 64):
        for unit in range(units):
            shrinks = unit == 0 and channels > 16
            body = _normalized_conv(tensors, x, channels, 2 if shrinks else 1).clamp(min=0)
            body = _normalized_conv(tensors, body, channels)
            if shrinks:  # option A: every other pixel, half of the new channels of zeros on each side
                kept = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(kept[:, : channels // 4])
                x = torch.cat([zeros, kept, zeros], dim=1)
            x = (x + body).clamp(min=0)
    assert not list(tensors)
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def naive_vgg13(weights: Iterable[Tensor], images: Tensor) -> Tensor:
    """conv3x3-BN-ReLU: five of 96, four of 192, four of 384; max-pooling between; the mean of the last map."""
    tensors, x = iter(weights), images
    for channels, convolutions in ((96, 5), (192, 4), (384, 4)):
        x = x if channels == 96 else max_pool2d(x, 2)
        for _ in range(convolutions):
            x = _normalized_conv(tensors, x, channels).clamp(min=0)
    assert not list(tensors)
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def double(state: Mapping[str, Tensor]) -> list[Tensor]:
    """A state dict's tensors in double precision."""
    return [tensor.detach().double() for tensor in state.values()]
