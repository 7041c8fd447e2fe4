"""Random numbers of attacks: an image's follow from a seed and its own number, however images are put into batches."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

Generators = Sequence[torch.Generator]
"""One for each image of a batch, on the CPU."""


def generators_of(numbers: Int64[Tensor, " batch"], seed: int) -> Generators:
    """A generator for each image.

    Args:
        numbers: of the images in their data set, not negative.
        seed: of the attack, not negative.
    """
    seeds = (np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] for number in numbers.tolist())
    return [torch.Generator().manual_seed(int(own)) for own in seeds]


def uniform(generators: Iterable[torch.Generator], shape: Sequence[int]) -> Float32[Tensor, "batch ..."]:
    """Numbers from 0 to 1, of such a shape for each of one image or more; on the CPU."""
    return torch.stack([torch.rand(tuple(shape), generator=generator) for generator in generators])
