"""The training loop."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from facegm.data.batch import Batch
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.faces import LabelledFaces
from facegm.data.loader import load_steps
from facegm.data.preprocessing import Preprocessing
from facegm.data.residency import choose_residency
from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.errors import StoppedError
from facegm.losses.interface import Progress
from facegm.models.face_resnet import FaceResNet27
from facegm.training.compilation import compile_network
from facegm.training.config import RunConfig
from facegm.training.distributed import Processes
from facegm.training.due import due_after
from facegm.training.finite import FiniteGuard
from facegm.training.interruption import StopSignals
from facegm.training.optimization import Optimization
from facegm.training.progress_log import ProgressLog, summary
from facegm.training.projector import Projector
from facegm.training.run_folder import forget_metrics_after
from facegm.training.state import TrainingState
from facegm.training.task import FaceTask

logger = logging.getLogger(__name__)


Validate = Callable[[FaceResNet27, Preprocessing], dict[str, float]]
"""Named numbers that say how good a network is."""


def train(
    config: RunConfig,
    faces: LabelledFaces,
    plan: DrawPlan,
    run: Path,
    processes: Processes,
    validate: Validate | None = None,
) -> None:
    """Train from the newest checkpoint of the run folder, or from the beginning, to the end; export the embedder.

    Args:
        config: what to train.
        faces: the training faces.
        plan: what the order of the faces and their augmentation follow from.
        run: an existing run folder; checkpoints, logs and `embedder.safetensors` are written there.
        processes: this process among those of the run.
        validate: what the main process does every few epochs.

    Raises:
        FacegmError: a checkpoint of another network or data set, or a loss that is not finite.
        StoppedError: SIGTERM or Ctrl-C came; the run is saved.
    """
    torch.manual_seed(config.train.seed)
    task = FaceTask(config.model, config.loss, config.preprocessing.crop_size, len(faces.identities))
    task.to(processes.device).to(memory_format=torch.channels_last)  # as the input lies in memory
    optimization = Optimization(task, config, processes)
    state = TrainingState(run, config, faces, plan, task, optimization)
    first_step = state.restore()
    compile_network(task.network, config.train.compile, plan.steps, say=processes.is_main)
    precision = str(optimization.precision or torch.float32).removeprefix("torch.")
    processes.require_equal("the checkpoint they go on from, or in their precision", f"{first_step} {precision}")
    batches = _batches(config, faces, plan, first_step, processes)

    with ExitStack() as stack:
        log = None
        if processes.is_main:
            logger.info(
                f"{len(faces)} faces of {len(faces.identities)} identities; steps {first_step} to {plan.steps} of "
                f"{plan.batch_size} faces; {processes.world_size} process(es) on {processes.device.type}, {precision}; "
                f"{config.loss}"
            )
            forget_metrics_after(run, first_step)
            log = stack.enter_context(ProgressLog(run, plan, first_step))
        signals = stack.enter_context(StopSignals())
        projector = Projector(faces, config.preprocessing)
        guard = FiniteGuard(run, plan, faces.keys, is_main=processes.is_main)

        task.train()
        for step, batch in enumerate(batches, start=first_step + 1):
            progress = Progress(step - 1, plan.steps)
            is_stopping = processes.any(signals.received is not None)
            due = due_after(step, config, plan, is_stopping=is_stopping)

            torch.manual_seed(_step_seed(config.train.seed, step, processes.rank))
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
                    if validate and due.validation:
                        means |= validate(optimization.network, config.preprocessing)
                    log.write(step, means, {name: value for name, value in terms.items() if value.ndim})
            if log and due.projection:
                log.project(step, projector.embed(optimization.network))
            if due.checkpoint:
                state.save(step, is_main=processes.is_main)
            if is_stopping and step < plan.steps:
                cause = signals.received or "a signal to another process"
                raise StoppedError(
                    f"stopped by {cause} after step {step} of {plan.steps}, with a checkpoint; to go on, give the same "
                    f"command again, or facegm train --resume {run}"
                )

    if processes.is_main:
        save_embedder(run / MODEL_FILE, optimization.network, config.model, config.preprocessing, faces.alignment)
        logger.info(f"{summary(run, plan)}\ndone: {run / MODEL_FILE}")
    processes.wait()


def _batches(
    config: RunConfig, faces: LabelledFaces, plan: DrawPlan, first_step: int, processes: Processes
) -> DataLoader[Batch]:
    """This process's part of each step's batch, from where its faces are kept."""
    device = processes.device
    residency = choose_residency(config.data.residency, faces.decoded_size, device, processes.local_size)
    if residency != "stream":
        faces.keep_decoded(device if residency == "device" else torch.device("cpu"))
    return load_steps(
        faces,
        StepSampler(plan, first_step=first_step, rank=processes.rank, world_size=processes.world_size),
        workers=config.data.workers if residency == "stream" else 0,
        pin_memory=device.type == "cuda" and residency != "device",
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a step leaves to chance in one process, such as dropout, so that a resumed run draws the same."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
