"""One step of the optimiser, from the loss of a batch to new weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facegm.data.batch import Batch
from facegm.errors import FacegmError
from facegm.losses.interface import Progress
from facegm.losses.schedule import linear_warmup
from facegm.training.average import WeightAverage
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes, autocast_dtype
from facegm.training.schedule import cosine_decay, step_decay
from facegm.training.shards import clip_gradient
from facegm.training.task import Network, Task


class Optimization(Generic[Network]):
    """The optimiser of a task with all that goes with it: mixed precision, accumulation, clipping and averaging.

    Args:
        task: the network and the loss, on the device of this process.
        optimizer: the optimiser and its schedule.
        train: precision, accumulation and averaging.
        processes: this process among those of the run.

    Raises:
        FacegmError: the precision does not go together with means that are split over the processes.
    """

    def __init__(
        self, task: Task[Network], optimizer: OptimizerConfig, train: TrainConfig, processes: Processes
    ) -> None:
        self._task, self._config, self._accumulate = task, optimizer, train.accumulate
        self.precision = autocast_dtype(train.precision, processes.device)
        if self.precision is torch.float16 and task.sharded:
            raise FacegmError(
                "train.precision: float16 scales the loss by what each process finds in its own part of the means; "
                "with loss.gm.shard_means take bfloat16 or float32"
            )
        self.optimizer = build_optimizer(task, optimizer)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.precision is torch.float16)
        self._average = WeightAverage(task.network, train.ema_decay) if train.ema_decay else None
        self.learning_rate = 0.0
        """The network's, of the step whose gradient was computed last."""
        self._module: nn.Module = _replicated(task) if processes.world_size > 1 else task

    @property
    def network(self) -> Network:
        """The network to export: the average of its weights over the steps where that is kept, else the last ones."""
        return self._task.network if self._average is None else self._average.network

    def backward(self, batch: Batch, progress: Progress, *, monitor: bool) -> dict[str, Tensor]:
        """Compute the gradient of the loss of a batch; returns the task's terms, and the gradient's norm.

        The gradient is that of the whole batch over all processes, and shortened to the configured norm. (Where a
        network normalises batches, each part of a process's batch is one.)
        """
        self.learning_rate = set_learning_rates(self.optimizer, self._config, progress.share)
        self.optimizer.zero_grad()
        terms_of_parts = []
        for number, part in enumerate(batch.parts(self._accumulate)):
            images = self._task.inputs(part)
            with nullcontext() if number == self._accumulate - 1 else self._without_exchange():
                terms = self._module(images, part.label, progress, self.precision, monitor)
                self.scaler.scale(terms["loss"] / self._accumulate).backward()
            terms_of_parts.append({name: value.detach() for name, value in terms.items()})
        self.scaler.unscale_(self.optimizer)
        return _joined(terms_of_parts) | {"gradient_norm": clip_gradient(self._task, self._config.clip_gradient)}

    def step(self) -> None:
        """Change the weights by the gradient; where float16 has made it infinite, only the loss's scale."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._average is not None:
            self._average.update(self._task.network)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, beside the task."""
        average = None if self._average is None else self._average.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint was left."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where another precision was trained in
            self.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _without_exchange(self) -> Any:
        return self._module.no_sync() if isinstance(self._module, DistributedDataParallel) else nullcontext()


def build_optimizer(task: Task[Any], config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the task's parameter groups."""
    groups = task.parameter_groups(config)
    # On a GPU the fused ones alone learn from the loss's scaler there whether to step, without the host waiting for it.
    fused = True if next(task.network.parameters()).is_cuda else None
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, progress: float) -> float:
    """Set each parameter group's learning rate for a point of the run; return the network's."""
    decay = cosine_decay(progress) if config.schedule == "cosine" else step_decay(progress, config.milestones)
    rate = config.learning_rate * decay * linear_warmup(progress, start=0.01, fraction=config.warmup_fraction)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def _joined(terms_of_parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of parts of one size: the mean of numbers, and vectors one after the other."""
    values = {name: [terms[name] for terms in terms_of_parts] for name in terms_of_parts[0]}
    return {name: torch.cat(v) if v[0].ndim else torch.stack(v).mean() for name, v in values.items()}


def _replicated(task: Task[Any]) -> DistributedDataParallel:
    """The task with equal weights in all processes, but for parameters of which each holds its part."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, list(task.sharded))
    return DistributedDataParallel(task)
