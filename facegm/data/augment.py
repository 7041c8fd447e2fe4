"""The part of the augmentation that runs on the device, over a whole batch: crop, mirror, contrast and brightness."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from facegm.data.batch import Batch
from facegm.data.preprocessing import network_input


def augmented_input(batch: Batch, side: int) -> Float[Tensor, "batch 3 {side} {side}"]:
    """The network's input for a training batch: each face cropped to `side` pixels, mirrored and changed as drawn."""
    images = network_input(cropped(batch, side))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (factor[:, None, None, None].to(images) for factor in (batch.contrast, batch.brightness))
    return mean + contrast * (images - mean) + brightness


def cropped(batch: Batch, side: int) -> UInt8[Tensor, "batch {side} {side} channels"]:
    """The drawn crops, mirrored where that was drawn."""
    steps = torch.arange(side, device=batch.images.device)
    rows = batch.top[:, None] + steps
    columns = batch.left[:, None] + torch.where(batch.mirrored[:, None], side - 1 - steps, steps)
    numbers = torch.arange(len(batch.images), device=batch.images.device)
    return batch.images[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]
