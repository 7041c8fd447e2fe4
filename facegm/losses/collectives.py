"""What the processes of a run tell each other inside a loss; each is the identity where there is one process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient; each process must hold equally many."""
    if world_size() == 1:
        return rows.detach()
    gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
    dist.all_gather(list(gathered.chunk(world_size())), rows.detach().contiguous())
    return gathered


def all_rows_with_gradient(rows: Tensor) -> Tensor:
    """As `all_rows`, for a loss that all processes compute from all rows, each a part of its gradient.

    The gradient of this process's rows is the sum of those parts times the number of processes: so that the average
    over the processes of what their rows give to a network's weights, which DistributedDataParallel takes, is the
    gradient of the loss.
    """
    return rows if world_size() == 1 else _AllRows.apply(rows)


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return all_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows] * world_size()
