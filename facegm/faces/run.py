"""A face network's run: from its configuration to what the loop is given, in all processes that `torchrun` started."""

from contextlib import ExitStack
from pathlib import Path

import torch

from facegm.align.prealigned import open_aligned_faces
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.samples import Samples
from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.faces.geometry_chart import CHART_FILE, draw_geometry
from facegm.faces.projector import Projector
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.losses.engine import choose_engine
from facegm.losses.gm_module import GMLossConfig
from facegm.losses.shard import Shard
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import network_class
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import to_yaml
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import train
from facegm.training.run_folder import create_run_folder, is_run, locked
from facegm.training.setup import TrainingSetup
from facegm.training.task import Task

BEST_FILE = MODEL_FILE.replace(".", "-best.")
"""Name of the embedder of the best epoch, by validation."""


def train_run(
    config: FaceRunConfig, folder: Path, validation: Samples | None = None, *, is_profiled: bool = False
) -> None:
    """Train in a run folder to the end: begin there, or go on from its newest checkpoint.

    Args:
        config: what to train.
        folder: the run folder, made when missing.
        validation: faces to verify every `config.validation.every_epochs` epochs; see `Verification`.
        is_profiled: whether to record some steps by torch.profiler.

    Raises:
        FacegmError: the folder is something else, another process trains in it, its checkpoints are of another run,
            the data is unusable, or training fails; a new folder is made only when the data is known to be usable.
        StoppedError: SIGTERM, SIGHUP or Ctrl-C came while training; the run is saved.
    """
    is_run(folder)
    faces = open_training_faces(config)
    with join_processes() as processes, ExitStack() as stack:
        plan = draw_plan(config, faces)
        is_normalised = network_class(config.model).has_batch_norm and not config.train.sync_batch_norm
        _check_division(plan, faces, config.train.accumulate, processes.world_size, is_normalised=is_normalised)
        check_loss(config, len(faces.identities), processes)
        processes.require_equal("data or configuration", f"{to_yaml(config)} {faces.fingerprint}")
        with processes.together():
            if processes.is_main:
                stack.enter_context(locked(folder))
                if not is_run(folder):
                    create_run_folder(folder, to_yaml(config))
        train(face_setup(config, faces, plan, folder, validation), folder, processes, is_profiled=is_profiled)
        if processes.is_main and config.loss.name == "gm":
            _draw_geometry(config.loss.gm, folder)


def face_setup(
    config: FaceRunConfig, faces: LabelledFaces, plan: DrawPlan, run: Path, validation: Samples | None
) -> TrainingSetup[FaceNetwork]:
    """What the loop is given: a new network, and the embedder to be exported into the run folder.

    Args:
        config: what to train.
        faces: the training faces.
        plan: what the order of the faces follows from.
        run: the run folder.
        validation: what the network is evaluated on every few epochs.
    """
    torch.manual_seed(config.train.seed)

    def export(task: Task[FaceNetwork], is_best: bool) -> Path:
        file = run / (BEST_FILE if is_best else MODEL_FILE)
        save_embedder(file, task.network, config.model, config.preprocessing, faces.alignment)
        return file

    return TrainingSetup(
        title=f"{len(faces)} faces of {len(faces.identities)} identities, {config.loss}",
        task=FaceTask(config.model, config.loss, config.preprocessing, len(faces.identities)),
        samples=faces,
        plan=plan,
        residency=config.data.residency,
        workers=config.data.workers,
        optimizer=config.optimizer,
        train=config.train,
        config=config,
        data=f"{len(faces)} faces of {len(faces.identities)} identities ({faces.fingerprint})",
        export=export,
        validation=validation,
        validate_every=config.validation.every_epochs,
        project=Projector(faces).embed,
    )


def open_training_faces(config: FaceRunConfig) -> LabelledFaces:
    """The faces that a configuration names.

    Raises:
        FacegmError: there are none, or they cannot be trained on.
    """
    return LabelledFaces(
        open_aligned_faces(
            config.data.store, is_aligned=config.data.aligned, identity_level=config.data.identity_level
        ),
        config.preprocessing,
        jitter=config.data.jitter,
        exclude_identities=config.data.exclude_identities,
    )


def _check_division(
    plan: DrawPlan, faces: LabelledFaces, accumulate: int, processes: int, *, is_normalised: bool
) -> None:
    """Refuse a batch that does not fall into equal parts, before anything is written."""
    StepSampler(plan, faces, world_size=processes)
    if plan.batch_size // processes % accumulate:
        raise FacegmError(
            f"train.batch_size: {plan.batch_size} on {processes} process(es) does not divide into "
            f"train.accumulate: {accumulate} parts"
        )
    if plan.batch_size // processes // accumulate == 1 and is_normalised:
        raise FacegmError(
            f"train.batch_size: {plan.batch_size} on {processes} process(es) in {accumulate} part(s) is one face at a "
            "time, of which batch normalisation has no statistics; take a larger batch, or train.sync_batch_norm=true"
        )


def _draw_geometry(loss: GMLossConfig, folder: Path) -> None:
    """Draw the distances between means, all of which the checkpoint holds also where the processes share them."""
    state = load_newest_checkpoint(folder)
    assert state is not None
    weight = loss.likelihood_weight if loss.regularizer == "mixture" else 0.0
    draw_geometry(folder / CHART_FILE, state["task"]["loss.means"], weight)


def check_loss(config: FaceRunConfig, identities: int, processes: Processes) -> None:
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


def draw_plan(config: FaceRunConfig, faces: LabelledFaces) -> DrawPlan:
    """The numbers of a run that the order of its faces follows from.

    Raises:
        FacegmError: the faces do not fill one batch.
    """
    return DrawPlan(
        labels=faces.labels,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
        seed=config.train.seed,
        balanced=config.data.balanced,
    )
