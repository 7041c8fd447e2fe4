"""The optimiser over a task's parameters, and what torch leaves to its user when one is built, stepped or restored."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from facegm.training.config import OptimizerConfig
from facegm.training.row_gradients import LazyAdamW, LazySGD
from facegm.training.task import Task


def build_optimizer(task: Task[Any], config: OptimizerConfig, *, is_captured: bool = False) -> Optimizer:
    """SGD or AdamW over the task's parameter groups; a step by a sparse gradient changes its rows alone.

    Args:
        task: on its device.
        config: which, and its settings.
        is_captured: whether steps are part of a CUDA graph, where the learning rate has to lie on the device.
    """
    groups = task.parameter_groups(config)
    # On a GPU the fused ones alone learn from the loss's scaler there whether to step, without the host waiting for it.
    fused = True if task.device.type == "cuda" else None
    rate = config.learning_rate
    if is_captured:
        groups = [group | {"lr": torch.tensor(rate, device=task.device)} for group in groups]
    if config.name == "adamw":
        betas = (config.momentum, 0.999)
        return LazyAdamW(groups, lr=rate, betas=betas, fused=fused, capturable=is_captured)
    optimizer = LazySGD(groups, lr=rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    start_momentum(optimizer)
    return optimizer


def start_momentum(optimizer: SGD) -> None:
    """Begin the momentum with zeros where there is none yet.

    The fused one leaves it uninitialised where the scaler passes over the first step, and the next one uses it.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give each parameter group its learning rate: the network's, times the group's factor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * group["factor"])
        else:
            group["lr"] = rate * group["factor"]


def restore_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of each parameter.

    What the groups hold beside the parameters follows from configuration and device, here, and not where it was saved:
    a CPU's `fused=None` would not go with a GPU.
    """
    groups = [
        {name: value for name, value in here.items() if name != "params"} | {"params": there["params"]}
        for here, there in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    if isinstance(optimizer, SGD):
        start_momentum(optimizer)


def replicate(task: Task[Any]) -> DistributedDataParallel | None:
    """The task with equal weights and an averaged gradient, but for parameters of which each process holds its part.

    None where nothing else is trained.
    """
    if not any(parameter.requires_grad for name, parameter in task.named_parameters() if name not in task.sharded):
        return None
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, list(task.sharded))
    return DistributedDataParallel(task, gradient_as_bucket_view=True)
