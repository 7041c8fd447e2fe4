"""The training loop."""

import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from facegm.data.batch import Batch
from facegm.data.draws import StepSampler
from facegm.data.loader import load_steps
from facegm.data.residency import choose_residency
from facegm.errors import StoppedError
from facegm.losses.interface import Progress
from facegm.training.compilation import compile_network
from facegm.training.distributed import Processes
from facegm.training.due import due_after
from facegm.training.finite import FiniteGuard
from facegm.training.interruption import StopSignals
from facegm.training.optimization import Optimization
from facegm.training.progress_log import ProgressLog, summary
from facegm.training.run_folder import forget_metrics_after
from facegm.training.setup import TrainingSetup
from facegm.training.state import TrainingState
from facegm.training.task import Network

logger = logging.getLogger(__name__)


def train(setup: TrainingSetup[Network], run: Path, processes: Processes) -> None:
    """Train from the newest checkpoint of the run folder, or from the beginning, to the end; export the network.

    Args:
        setup: what to train; the main process alone validates, projects and exports.
        run: an existing run folder; checkpoints and logs are written there.
        processes: this process among those of the run.

    Raises:
        FacegmError: a checkpoint of another network or data set, or a loss that is not finite.
        StoppedError: SIGTERM or Ctrl-C came; the run is saved.
    """
    task, plan = setup.task, setup.plan
    task.to(processes.device).to(memory_format=torch.channels_last)  # as the input lies in memory
    optimization = Optimization(task, setup.optimizer, setup.train, processes)
    state = TrainingState(run, setup, optimization)
    first_step = state.restore()
    compile_network(task.network, setup.train.compile, plan.steps, say=processes.is_main)
    precision = str(optimization.precision or torch.float32).removeprefix("torch.")
    processes.require_equal("the checkpoint they go on from, or in their precision", f"{first_step} {precision}")
    batches = _batches(setup, first_step, processes)

    with ExitStack() as stack:
        log = None
        if processes.is_main:
            logger.info(
                f"{setup.title}; steps {first_step} to {plan.steps} of {plan.batch_size} images; "
                f"{processes.world_size} process(es) on {processes.device.type}, {precision}"
            )
            forget_metrics_after(run, first_step)
            log = stack.enter_context(ProgressLog(run, plan, first_step))
        signals = stack.enter_context(StopSignals())
        guard = FiniteGuard(run, plan, setup.samples.keys, is_main=processes.is_main)

        task.train()
        for step, batch in enumerate(batches, start=first_step + 1):
            progress = Progress(step - 1, plan.steps)
            is_stopping = processes.any(signals.received is not None)
            due = due_after(step, setup.train, plan, validate_every=setup.validate_every, is_stopping=is_stopping)

            torch.manual_seed(_step_seed(plan.seed, step, processes.rank))
            terms = optimization.backward(batch.to(processes.device), progress, monitor=due.log)
            if not optimization.scaler.is_enabled():  # which passes over gradients that its scale made infinite
                guard.watch(step, terms["gradient_norm"])
            optimization.step()

            if due.log:
                means = processes.mean({name: value for name, value in terms.items() if not value.ndim})
                guard.settle()
                guard.check(step, means["loss"])
                if log:
                    means |= task.settings(progress) | {"learning_rate": optimization.learning_rate}
                    if setup.validate and due.validation:
                        with log.beside_training():
                            means |= setup.validate(optimization.network)
                    log.write(step, means, {name: value for name, value in terms.items() if value.ndim})
            if log and setup.project and due.projection:
                with log.beside_training():
                    log.project(step, setup.project(optimization.network))
            if due.checkpoint:
                state.save(step, is_main=processes.is_main)
            if is_stopping and step < plan.steps:
                cause = signals.received or "a signal to another process"
                raise StoppedError(
                    f"stopped by {cause} after step {step} of {plan.steps}, with a checkpoint; to go on, give the "
                    "same command again"
                )

    if processes.is_main:
        exported = setup.export(optimization.network)
        logger.info(f"{summary(run, plan)}\ndone: {exported}")
    processes.wait()


def _batches(setup: TrainingSetup[Network], first_step: int, processes: Processes) -> DataLoader[Batch]:
    """This process's part of each step's batch, from where its samples are kept."""
    device, samples = processes.device, setup.samples
    residency = choose_residency(setup.residency, samples.decoded_size, device, processes.local_size)
    if residency != "stream":
        samples.keep_decoded(device if residency == "device" else torch.device("cpu"))
    return load_steps(
        samples,
        StepSampler(setup.plan, first_step=first_step, rank=processes.rank, world_size=processes.world_size),
        workers=setup.workers if residency == "stream" else 0,
        pin_memory=device.type == "cuda" and residency != "device",
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a step leaves to chance in one process, such as dropout, so that a resumed run draws the same."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
