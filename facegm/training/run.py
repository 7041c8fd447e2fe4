"""A training run from its configuration: the run folder, and all processes that `torchrun` started."""

from dataclasses import asdict
from pathlib import Path

import torch

from facegm.align.aligned_photos import open_aligned_faces
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.faces import LabelledFaces
from facegm.errors import FacegmError
from facegm.losses.gm_module import GMLossConfig
from facegm.losses.implementation import choose_engine
from facegm.losses.shard import Shard
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import RunConfig
from facegm.training.distributed import Processes, join_processes
from facegm.training.face_setup import Validate, face_setup
from facegm.training.geometry_chart import CHART_FILE, draw_geometry
from facegm.training.loop import train
from facegm.training.run_folder import create_run_folder, is_run


def train_run(config: RunConfig, folder: Path, validate: Validate | None = None) -> None:
    """Train in a run folder to the end: begin there, or go on from its newest checkpoint.

    Args:
        config: what to train.
        folder: the run folder, made when missing.
        validate: what the main process does with the network every `config.validation.every_epochs` epochs.

    Raises:
        FacegmError: the folder is something else, its checkpoints are of another run, the data is unusable, or
            training fails; a new folder is made only when the data is known to be usable.
        StoppedError: SIGTERM or Ctrl-C came while training; the run is saved.
    """
    is_new = not is_run(folder)
    faces = open_training_faces(config)
    with join_processes() as processes:
        plan = draw_plan(config, faces)
        _check_division(plan, config.train.accumulate, processes.world_size)
        check_loss(config, len(faces.identities), processes)
        processes.require_equal("data or configuration", f"{asdict(config)} {faces.fingerprint}")
        if is_new and processes.is_main:
            create_run_folder(folder, config)
        processes.wait()
        train(face_setup(config, faces, plan, folder, validate), folder, processes)
        if processes.is_main and config.loss.name == "gm":
            _draw_geometry(config.loss.gm, folder)


def open_training_faces(config: RunConfig) -> LabelledFaces:
    """The faces that a configuration names.

    Raises:
        FacegmError: there are none, or they cannot be trained on.
    """
    store = open_aligned_faces(config.data.store)
    return LabelledFaces(store, config.preprocessing, exclude_identities=config.data.exclude_identities)


def _check_division(plan: DrawPlan, accumulate: int, processes: int) -> None:
    """Refuse a batch that does not fall into equal parts, before anything is written."""
    StepSampler(plan, world_size=processes)
    if plan.batch_size // processes % accumulate:
        raise FacegmError(
            f"train.batch_size: {plan.batch_size} on {processes} process(es) does not divide into "
            f"train.accumulate: {accumulate} parts"
        )


def _draw_geometry(loss: GMLossConfig, folder: Path) -> None:
    """Draw the distances between means, all of which the checkpoint holds also where the processes share them."""
    state = load_newest_checkpoint(folder)
    assert state is not None
    weight = loss.likelihood_weight if loss.regularizer == "mixture" else 0.0
    draw_geometry(folder / CHART_FILE, state["task"]["loss.means"], weight)


def check_loss(config: RunConfig, identities: int, processes: Processes) -> None:
    """Refuse what the loss cannot do with these identities, processes or this device.

    Raises:
        FacegmError: the means cannot be split, or the implementation that is asked for cannot run here.
    """
    if config.loss.name != "gm":
        return
    features = torch.empty(1, config.model.embedding_dim, device=processes.device)
    try:
        choose_engine(config.loss.gm.implementation, features, identities)
        if config.loss.gm.shard_means:
            Shard.of_rank(identities, processes.rank, processes.world_size)
    except ValueError as error:
        raise FacegmError(f"loss.gm: {error}") from error


def draw_plan(config: RunConfig, faces: LabelledFaces) -> DrawPlan:
    """The numbers of a run that the order of its faces and their augmentation follow from.

    Raises:
        FacegmError: the faces do not fill one batch.
    """
    return DrawPlan(
        labels=faces.labels,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        seed=config.train.seed,
        slack=config.preprocessing.slack,
        mirror=config.preprocessing.mirror,
        jitter=config.data.jitter,
        balanced=config.data.balanced,
    )
