"""A face network's run, from its configuration to what the loop is given."""

from collections.abc import Callable
from pathlib import Path

import torch

from facegm.data.draws import DrawPlan
from facegm.data.faces import LabelledFaces
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import MODEL_FILE, save_embedder
from facegm.models.face_resnet import FaceResNet27
from facegm.training.config import RunConfig
from facegm.training.face_task import FaceTask
from facegm.training.projector import Projector
from facegm.training.setup import TrainingSetup

Validate = Callable[[FaceResNet27, Preprocessing], dict[str, float]]
"""Named numbers that say how good a network is."""


def face_setup(
    config: RunConfig, faces: LabelledFaces, plan: DrawPlan, run: Path, validate: Validate | None
) -> TrainingSetup[FaceResNet27]:
    """What the loop is given: a new network, and the embedder to be exported into the run folder.

    Args:
        config: what to train.
        faces: the training faces.
        plan: what the order of the faces and their augmentation follow from.
        run: the run folder.
        validate: what is done with the network every few epochs.
    """
    torch.manual_seed(config.train.seed)

    def export(network: FaceResNet27) -> Path:
        save_embedder(run / MODEL_FILE, network, config.model, config.preprocessing, faces.alignment)
        return run / MODEL_FILE

    return TrainingSetup(
        title=f"{len(faces)} faces of {len(faces.identities)} identities, {config.loss}",
        task=FaceTask(config.model, config.loss, config.preprocessing.crop_size, len(faces.identities)),
        samples=faces,
        plan=plan,
        residency=config.data.residency,
        workers=config.data.workers,
        optimizer=config.optimizer,
        train=config.train,
        configuration=config.to_yaml(),
        must_match=_identity(config, faces),
        export=export,
        validate=None if validate is None else lambda network: validate(network, config.preprocessing),
        validate_every=config.validation.every_epochs,
        project=Projector(faces, config.preprocessing).embed,
    )


def _identity(config: RunConfig, faces: LabelledFaces) -> dict[str, str]:
    """What must be equal for a checkpoint to fit, by config key."""
    return {
        "model": str(config.model),
        "preprocessing": str(config.preprocessing),
        "loss": str(config.loss),
        "optimizer": str(config.optimizer),
        "data.jitter": str(config.data.jitter),
        "data.balanced": str(config.data.balanced),
        "train.epochs": str(config.train.epochs),
        "train.batch_size": str(config.train.batch_size),
        "train.seed": str(config.train.seed),
        "train.ema_decay": str(config.train.ema_decay),
        "the training data": f"{len(faces)} faces of {len(faces.identities)} identities ({faces.fingerprint})",
    }
