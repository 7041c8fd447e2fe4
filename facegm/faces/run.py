"""A face network's run: from its configuration to what the loop is given, in all processes that `torchrun` started."""

from pathlib import Path

import torch

from facegm.align.prealigned import open_aligned_faces
from facegm.data.draws import DrawPlan
from facegm.data.samples import Samples
from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.faces.class_means import carried_means
from facegm.faces.config import FaceRunConfig
from facegm.faces.projector import Projector
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.models.face_base import FaceNetwork
from facegm.training.distributed import Processes
from facegm.training.run import check_loss, train_in_folder
from facegm.training.run_folder import is_run
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

    def build(processes: Processes) -> TrainingSetup[FaceNetwork]:
        check_loss(config.loss, len(faces.identities), config.model.embedding_dim, processes)
        return face_setup(config, faces, draw_plan(config, faces), folder, validation)

    train_in_folder(folder, build, is_profiled=is_profiled)


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
        means = carried_means(task, run)
        save_embedder(file, task.network, config.model, config.preprocessing, faces.alignment, means)
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
        data=data_of(faces),
        export=export,
        validation=validation,
        validate_every=config.validation.every_epochs,
        project=Projector(faces).embed,
    )


def data_of(faces: LabelledFaces) -> str:
    """By what a checkpoint knows the faces that it was trained on."""
    return f"{len(faces)} faces of {len(faces.identities)} identities ({faces.fingerprint})"


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
