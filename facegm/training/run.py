"""A run in its folder, whatever its task: entered by all processes that `torchrun` started, and trained to the end."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from facegm.data.draws import StepSampler
from facegm.errors import FacegmError
from facegm.losses.config import LossConfig
from facegm.losses.engine import choose_engine
from facegm.losses.shard import Shard
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import to_yaml
from facegm.training.distributed import Processes, join_processes
from facegm.training.geometry_chart import CHART_FILE, draw_geometry
from facegm.training.loop import train
from facegm.training.run_folder import create_run_folder, is_run, locked
from facegm.training.setup import TrainingSetup


def train_in_folder(
    folder: Path, build: Callable[[Processes], TrainingSetup[Any]], *, is_profiled: bool = False
) -> None:
    """Train in a run folder to the end: begin there, or go on from its newest checkpoint.

    Args:
        folder: the run folder, made when missing.
        build: what to train, in a process among those of the run.
        is_profiled: whether to record some steps by torch.profiler.

    Raises:
        FacegmError: the folder is something else, another process trains in it, its checkpoints are of another run, a
            batch does not divide, or training fails; a new folder is made only when the run could begin.
        StoppedError: SIGTERM, SIGHUP or Ctrl-C came while training; the run is saved.
    """
    with join_processes() as processes, ExitStack() as stack:
        setup = build(processes)
        _check_division(setup, processes.world_size)
        processes.require_equal("data or configuration", f"{to_yaml(setup.config)} {setup.data}")
        with processes.together():
            if processes.is_main:
                stack.enter_context(locked(folder))
                if not is_run(folder):
                    create_run_folder(folder, to_yaml(setup.config))
        train(setup, folder, processes, is_profiled=is_profiled)
        if processes.is_main and setup.config.loss.name == "gm":
            _draw_geometry(setup.config.loss, folder)


def check_loss(loss: LossConfig, classes: int, dim: int, processes: Processes) -> None:
    """Refuse what a loss cannot do with these classes, processes or this device.

    Args:
        loss: the loss.
        classes: how many there are.
        dim: length of a feature.
        processes: this process among those of the run.

    Raises:
        FacegmError: the classes cannot be split, or the implementation that is asked for cannot run here.
    """
    if loss.classification is None:
        return
    features = torch.empty(1, dim, device=processes.device)
    try:
        choose_engine(loss.classification.implementation, features, classes)
        if loss.is_split:
            Shard.of_rank(classes, processes.rank, processes.world_size)
    except ValueError as error:
        raise FacegmError(f"loss.{loss.name}: {error}") from error


def _check_division(setup: TrainingSetup[Any], processes: int) -> None:
    """Refuse a batch that does not fall into equal parts, before anything is written."""
    plan, accumulate = setup.plan, setup.train.accumulate
    StepSampler(plan, setup.samples, world_size=processes)
    if plan.batch_size // processes % accumulate:
        raise FacegmError(
            f"train.batch_size: {plan.batch_size} on {processes} process(es) does not divide into "
            f"train.accumulate: {accumulate} parts"
        )
    is_normalised = any(isinstance(part, _BatchNorm) for part in setup.task.network.modules())
    if plan.batch_size // processes // accumulate == 1 and is_normalised and not setup.train.sync_batch_norm:
        raise FacegmError(
            f"train.batch_size: {plan.batch_size} on {processes} process(es) in {accumulate} part(s) is one image at a "
            "time, of which batch normalisation has no statistics; take a larger batch, or train.sync_batch_norm=true"
        )


def _draw_geometry(loss: LossConfig, folder: Path) -> None:
    """Draw the distances between means, all of which the checkpoint holds also where the processes share them."""
    state = load_newest_checkpoint(folder)
    assert state is not None
    weight = loss.gm.likelihood_weight if loss.gm.regularizer == "mixture" else 0.0
    draw_geometry(folder / CHART_FILE, state["task"]["loss.means"], weight)
