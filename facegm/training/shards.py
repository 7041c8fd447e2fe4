"""Parameters of which each process holds some rows: their gradients, and their place in a checkpoint."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facegm.losses.shard import Shard
from facegm.training.task import Task


def clip_gradient(task: Task[Any], limit: float) -> Tensor:
    """Scale all gradients down so that their L2 norm, over all parameters of all processes, is `limit` at most.

    Returns:
        The norm before. Shape [].
    """
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    parts = [gradients.pop(name) for name in task.sharded]
    squared_norm = nn.utils.get_total_norm(gradients.values()).square()
    if parts:
        of_parts = nn.utils.get_total_norm(parts).square()
        dist.all_reduce(of_parts)
        squared_norm += of_parts
    norm = squared_norm.sqrt()
    nn.utils.clip_grads_with_norm_(task.parameters(), limit, norm)
    return norm


def change_shards(
    state: dict[str, Any],
    task: Task[Any],
    optimizer: torch.optim.Optimizer,
    change: Callable[[Shard, Tensor], Tensor],
) -> dict[str, Any]:
    """A checkpoint's state with every tensor that belongs to a part of a parameter changed.

    Args:
        state: `task` and `optimizer`, the state dictionaries of both; not altered.
        task: names the parameters that are split.
        optimizer: numbers the parameters.
        change: from the tensor of a part to that of the whole, or back.
    """
    sharded = task.sharded
    if not sharded:
        return state
    names = {parameter: name for name, parameter in task.named_parameters()}
    shards = [sharded.get(names[p]) for group in optimizer.param_groups for p in group["params"]]
    of_task = {
        name: change(sharded[name], tensor) if name in sharded else tensor for name, tensor in state["task"].items()
    }
    of_optimizer = {
        number: values if (shard := shards[number]) is None else _changed(values, shard, change)
        for number, values in state["optimizer"]["state"].items()
    }
    return state | {"task": of_task, "optimizer": state["optimizer"] | {"state": of_optimizer}}


def _changed(values: dict[str, Any], shard: Shard, change: Callable[[Shard, Tensor], Tensor]) -> dict[str, Any]:
    """The optimiser's values of one parameter: the tensors of its shape, such as momentum, are split like it."""
    return {
        name: change(shard, value) if isinstance(value, Tensor) and value.ndim > 0 else value
        for name, value in values.items()
    }
