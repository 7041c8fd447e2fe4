"""A trained network as torch evaluates it fastest: for thousands of faces, or the thousand passes of an attack."""

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def quick_copy(module: ModuleT) -> ModuleT:
    """A copy in evaluation mode that gives the same but for rounding, in about two thirds of the time on a CPU.

    A batch normalisation that follows a convolution in a `Sequential` is folded into its weights, convolutions compute
    with channels last, and no weight asks for a gradient.
    """
    copy = deepcopy(module).eval()
    for part in list(copy.modules()):
        if isinstance(part, nn.Sequential):
            _fold(part)
    return copy.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold(layers: nn.Sequential) -> None:
    for number, (layer, following) in enumerate(pairwise(layers)):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d) and following.track_running_stats:
            layers[number], layers[number + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
