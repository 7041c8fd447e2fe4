"""The part of the augmentation that runs on the device, over a whole batch."""

from jaxtyping import Float
from torch import Tensor

from facegm.data.faces import Sample
from facegm.data.preprocessing import network_input


def augmented_input(batch: Sample) -> Float[Tensor, "batch 3 side side"]:
    """The network's input for a training batch, with each face's contrast and brightness changed as drawn."""
    images = network_input(batch.crop)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (factor[:, None, None, None].to(images) for factor in (batch.contrast, batch.brightness))
    return mean + contrast * (images - mean) + brightness
