"""The training loop and its step."""

from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from facegm.data.samples import Batch
from facegm.data.workers import named_worker_failures
from facegm.errors import StoppedError
from facegm.schedule import Progress
from facegm.training.capture import CapturedStep, Watch
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.devices import autocast, autocast_dtype, profiled
from facegm.training.distributed import Processes, SharedFlag
from facegm.training.finite import FiniteGuard
from facegm.training.interruption import StopSignals
from facegm.training.optimizer import build_optimizer, replicate, set_learning_rate
from facegm.training.report import Report
from facegm.training.setup import TrainingSetup
from facegm.training.start import load_batches, prepare_task, resume
from facegm.training.task import Network, Task, WeightAverage, joined


class Trainer(Generic[Network]):
    """A task with its optimiser, its loss's scaler and the average of its weights: what a step changes.

    Args:
        task: on its device.
        optimizer: the optimiser and its schedule.
        train: precision, accumulation and averaging.
        processes: this process among those of the run.
    """

    def __init__(
        self, task: Task[Network], optimizer: OptimizerConfig, train: TrainConfig, processes: Processes
    ) -> None:
        self.task, self._config, self._accumulate = task, optimizer, train.accumulate
        self.dtype = autocast_dtype(train.precision, task.device)
        self.optimizer = build_optimizer(task, optimizer, is_captured=train.capture)
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=self.dtype is torch.float16)
        self.average = WeightAverage(task, train.ema_decay) if train.ema_decay else None
        self._replica = replicate(task) if processes.world_size > 1 else None
        self._take = CapturedStep(self._step, task.settings) if train.capture else self._step

    @property
    def trained(self) -> Task[Network]:
        """What to evaluate and to export: the average where one is kept, else the last weights."""
        return self.task if self.average is None else self.average.task

    def step(self, batch: Batch, progress: Progress, watch: Watch) -> dict[str, Tensor]:
        """Change the weights by the gradient of the loss of a batch over all processes.

        Where a network normalises batches, each part of a process's batch is one.

        Args:
            batch: this process's part, on its device.
            progress: where the run stands.
            watch: is given the gradient's norm before the weights are changed.

        Returns:
            The task's terms, numbers averaged over the parts, and `gradient_norm`, that before clipping.
        """
        set_learning_rate(self.optimizer, self._config.rate(progress))
        return self._take(batch, progress, watch)

    def _step(self, batch: Batch, progress: Progress, watch: Watch) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        terms_of_parts = []
        for number, part in enumerate(batch.parts(self._accumulate), start=1):
            images = self.task.inputs(part)
            with self._exchange(is_last=number == self._accumulate):
                with autocast(images.device, self.dtype):
                    terms = (self._replica or self.task)(images, part.labels, progress)
                self.scaler.scale(terms["loss"] / self._accumulate).backward()
            terms_of_parts.append({name: value.detach() for name, value in terms.items()})
        if self._accumulate > 1:
            self.task.coalesce_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = self.task.clip_grad_norm_(self._config.clip_gradient)
        if self.scaler.is_enabled():  # which passes over gradients that its scale has made infinite
            norm = torch.where(norm.isfinite(), norm, 0.0)
        watch(norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.task)
        return joined(terms_of_parts) | {"gradient_norm": norm}

    def _exchange(self, *, is_last: bool) -> Any:
        """The context of a part: the processes average their gradients in the last one's backward pass."""
        return nullcontext() if is_last or self._replica is None else self._replica.no_sync()


def train(setup: TrainingSetup[Network], run: Path, processes: Processes, *, is_profiled: bool = False) -> None:
    """Train from the newest checkpoint of the run folder, or from the beginning, to the end; export the task.

    Args:
        setup: what to train.
        run: an existing run folder; checkpoints and logs are written there by the main process.
        processes: this process among those of the run.
        is_profiled: whether to record some steps by torch.profiler.

    Raises:
        FacegmError: a checkpoint of another network or data set, or a loss that is not finite.
        StoppedError: SIGTERM, SIGHUP or Ctrl-C came; the run is saved.
    """
    plan = setup.plan
    prepare_task(setup, processes)
    trainer = Trainer(setup.task, setup.optimizer, setup.train, processes)
    resumed = resume(run, setup, trainer, processes)
    with ExitStack() as stack:
        stack.enter_context(named_worker_failures())
        batches = stack.enter_context(closing(load_batches(setup, resumed.step, processes)))
        guard, stop = FiniteGuard(run, plan, setup.samples.keys, is_main=processes.is_main), SharedFlag(processes)
        report = stack.enter_context(Report(run, setup, trainer, processes, resumed, guard))
        profiler = stack.enter_context(profiled(run / "profile", is_on=is_profiled and processes.is_main))

        report.catch_up()
        setup.task.train()
        step = resumed.step
        signals = stack.enter_context(StopSignals(is_alone=processes.world_size == 1))
        for batch in signals.until_stopped(batches):
            step += 1
            progress = Progress(step - 1, plan.steps)
            torch.manual_seed(_step_seed(plan.seed, step, processes.rank))
            report.add(trainer.step(batch.to(processes.device), progress, partial(guard.watch, step)))
            profiler.step()
            if stop.exchange(signals.received is not None) and step < plan.steps:
                break
            if setup.is_logged(step):
                report.write(step)
        stop.settle()
        if step < plan.steps:
            report.write_stopped(step)
            raise StoppedError(
                f"stopped by {signals.received or 'a signal to another process'} after step {step} of {plan.steps}, "
                "with a checkpoint; to go on, give the same command again"
            )
        report.finish()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a step leaves to chance in one process, such as dropout, so that a resumed run draws the same."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
