"""Sampling of the negative classes of a step, as Partial FC does, with an estimator that knows what was drawn."""

from typing import NamedTuple

import torch
from torch import Tensor

from facegm.losses.collectives import world_size
from facegm.losses.engine import Operands
from facegm.losses.shard import Shard


class Negatives(NamedTuple):
    """The classes that a step looks at, counted from the first that this process holds."""

    classes: Tensor
    """Rising; the batch's own classes are among them. Shape [drawn]."""
    log_weights: Tensor
    """Log of the number of classes that each stands for, in double precision. Shape [drawn]."""

    def select(self, batch: Operands) -> Operands:
        """The batch against the drawn classes alone."""
        return batch._replace(
            vectors=batch.vectors[self.classes],
            own=torch.where(batch.is_here, torch.searchsorted(self.classes, batch.own), -1),
            bias=None if batch.bias is None else batch.bias[self.classes],
            log_weights=self.log_weights.to(batch.vectors.dtype),
        )

    def gradient_of_all(self, of_drawn: Tensor, shard: Shard) -> Tensor:
        """The gradient of a process's vectors or biases from that of the drawn ones, which are its first dimension.

        It is sparse, of rising rows, but where a run's processes hold the same parameters and average their gradients.
        """
        shape = (shard.last - shard.first, *of_drawn.shape[1:])
        if shard.is_split or world_size() == 1:
            row = self.classes[None]
            return torch.sparse_coo_tensor(row, of_drawn, shape, is_coalesced=True, check_invariants=False)
        return of_drawn.new_zeros(shape).index_copy_(0, self.classes, of_drawn)


def draw_negatives(labels: Tensor, shard: Shard, share: float, generator: torch.Generator) -> Negatives:
    """Take the batch's classes that this process holds, and at random so many others that their number is fixed.

    That is `share` of the process's classes, but at least one more than the batch could have of its own; so the host
    need not wait for a GPU to know how many there are. A class that was drawn stands for as many as there are for each
    that was, so that sums over the classes are estimated without bias. The logarithm of one is not: by Jensen's
    inequality the expected classification term lies below that over all classes, the less so the more are drawn.

    Args:
        labels: of the whole batch, over all processes. Shape [batch].
        shard: the classes of this process.
        share: above 0, at most 1.
        generator: on the device of the labels; in processes that hold the same classes in the same state.
    """
    held = shard.last - shard.first
    drawn = min(held, max(round(share * held), len(labels) + 1))
    own = torch.where((labels >= shard.first) & (labels < shard.last), labels - shard.first, held)
    is_own = torch.zeros(held + 1, dtype=torch.bool, device=labels.device).index_fill_(0, own, value=True)[:held]
    order = torch.rand(held, generator=generator, device=labels.device).masked_fill_(is_own, 2.0)
    classes = order.topk(drawn, sorted=False).indices.sort().values
    own_classes = is_own.sum()
    weight = (held - own_classes).double() / (drawn - own_classes).clamp_min(1)
    return Negatives(classes, torch.where(is_own[classes], 0.0, weight.log()))
