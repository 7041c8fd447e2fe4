"""Sampling of the negative classes of a step, as Partial FC does, with an estimator that knows what was drawn."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from facegm.losses.engine import LEAST, Operands
from facegm.losses.shard import Shard


class Negatives(NamedTuple):
    """The classes that a step looks at, counted from the first that this process holds."""

    classes: Tensor
    """Rising; the batch's own classes are among them. Shape [drawn]."""
    log_weights: Tensor
    """Log of the number of classes that each stands for. Shape [drawn]."""

    def select(self, batch: Operands) -> Operands:
        """The batch against the drawn classes alone."""
        own = torch.where(batch.is_here, torch.searchsorted(self.classes, batch.own), -1)
        return batch._replace(means=batch.means[self.classes], own=own, log_weights=self.log_weights)


def draw_negatives(labels: Tensor, shard: Shard, share: float, generator: torch.Generator) -> Negatives:
    """Take the classes of the batch, and each other class with probability `share`.

    A class that was drawn stands for 1 / share classes, so that the sum of exponentials over the other classes is
    estimated without bias. Its logarithm is not: by Jensen's inequality the expected classification term lies below
    that over all classes, the less so the more classes are drawn. All processes draw from equal generators, so that
    the choice does not depend on their number.

    Args:
        labels: of the whole batch, over all processes. Shape [batch].
        shard: the classes of this process.
        share: above 0, at most 1.
        generator: on the device of the labels, in the same state in all processes.
    """
    is_drawn = torch.rand(shard.classes, generator=generator, device=labels.device) < share
    is_own = torch.zeros_like(is_drawn).index_fill_(0, labels, value=True)
    is_own, is_drawn = is_own[shard.first : shard.last], is_drawn[shard.first : shard.last]
    classes = (is_own | is_drawn).nonzero()[:, 0]
    if not len(classes):  # a part so small that it has none; one that stands for no class takes their place
        return Negatives(classes.new_zeros(1), torch.full((1,), LEAST, device=labels.device))
    log_weights = torch.where(is_own[classes], 0.0, -math.log(share))
    return Negatives(classes, log_weights)
