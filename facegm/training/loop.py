"""The training loop."""

import logging
import math
from contextlib import ExitStack
from pathlib import Path

import cv2
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from facegm.data.augment import augmented_input
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.faces import LabelledFaces, Sample
from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.errors import FacegmError
from facegm.losses.interface import Progress
from facegm.losses.schedule import linear_warmup
from facegm.training.config import OptimizerConfig, RunConfig
from facegm.training.distributed import Processes, autocast_dtype
from facegm.training.progress_log import ProgressLog
from facegm.training.run_folder import forget_metrics_after
from facegm.training.schedule import step_decay
from facegm.training.shards import clip_gradient
from facegm.training.state import TrainingState
from facegm.training.task import FaceTask

logger = logging.getLogger(__name__)


def train(config: RunConfig, faces: LabelledFaces, plan: DrawPlan, run: Path, processes: Processes) -> None:
    """Train from the newest checkpoint of the run folder, or from the beginning, to the end; export the embedder.

    Args:
        config: what to train.
        faces: the training faces.
        plan: what the order of the faces and their augmentation follow from.
        run: an existing run folder; checkpoints, logs and `embedder.safetensors` are written there.
        processes: this process among those of the run.

    Raises:
        FacegmError: a checkpoint of another network or data set, or a loss that is not finite.
    """
    torch.manual_seed(config.train.seed)
    task = FaceTask(config.model, config.loss, config.preprocessing.crop_size, len(faces.identities))
    task.to(processes.device).to(memory_format=torch.channels_last)  # as the input lies in memory
    optimizer = torch.optim.SGD(
        task.parameter_groups(config.optimizer), lr=config.optimizer.learning_rate, momentum=config.optimizer.momentum
    )
    state = TrainingState(run, config, faces, task, optimizer)
    first_step = state.restore()
    precision = autocast_dtype(config.train.precision, processes.device)
    processes.require_equal("the checkpoint they go on from, or in their precision", f"{first_step} {precision}")

    module = _replicated(task) if processes.world_size > 1 else task
    sampler = StepSampler(plan, first_step=first_step, rank=processes.rank, world_size=processes.world_size)
    batches = DataLoader(
        faces,
        batch_sampler=sampler,
        num_workers=0 if faces.is_resident else config.data.workers,
        worker_init_fn=_start_worker,
        pin_memory=processes.device.type == "cuda",
    )

    with ExitStack() as stack:
        log = None
        if processes.is_main:
            logger.info(
                f"{len(faces)} faces of {len(faces.identities)} identities; steps {first_step} to {plan.steps} of "
                f"{plan.batch_size} faces; {processes.world_size} process(es) on {processes.device.type}, "
                f"{'float32' if precision is None else 'bfloat16'}; {config.loss}"
            )
            forget_metrics_after(run, first_step)
            log = stack.enter_context(ProgressLog(run, plan, first_step))

        task.train()
        for step, batch in enumerate(batches, start=first_step + 1):
            progress = Progress(step - 1, plan.steps)
            is_checkpoint = step % config.train.checkpoint_every == 0 or step == plan.steps
            is_logged = step % config.train.log_every == 0 or is_checkpoint

            learning_rate = set_learning_rates(optimizer, config.optimizer, progress.share)
            batch = Sample(*(part.to(processes.device, non_blocking=True) for part in batch))
            terms = module(augmented_input(batch), batch.label, progress, precision, is_logged)
            optimizer.zero_grad()
            terms["loss"].backward()
            gradient_norm = clip_gradient(task, config.optimizer.clip_gradient)
            if is_logged:
                means = processes.mean(terms | {"gradient_norm": gradient_norm})
                if not (math.isfinite(means["loss"]) and math.isfinite(means["gradient_norm"])):
                    raise FacegmError(
                        f"at step {step}, or since the line before, the loss became {means['loss']} and its gradient's "
                        f"norm {means['gradient_norm']}; lower optimizer.learning_rate or the loss's margin, or give "
                        f"the learning rate a warm-up; the checkpoints in {run} are from before"
                    )
                if log:
                    log.write(step, means | task.settings(progress) | {"learning_rate": learning_rate})
            optimizer.step()
            if is_checkpoint:
                state.save(step, is_main=processes.is_main)

    if processes.is_main:
        save_embedder(run / MODEL_FILE, task.network, config.model, config.preprocessing, faces.alignment)
        logger.info(f"done: {run / MODEL_FILE}")
    processes.wait()


def set_learning_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, progress: float) -> float:
    """Set each parameter group's learning rate for a point of the run, by warm-up and steps; return the network's."""
    rate = config.learning_rate * step_decay(progress, config.milestones)
    rate *= linear_warmup(progress, start=0.01, fraction=config.warmup_fraction)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def _replicated(task: FaceTask) -> DistributedDataParallel:
    """The task with equal weights in all processes, but for parameters of which each holds its part."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, list(task.sharded))
    return DistributedDataParallel(task)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers share the processors among themselves
