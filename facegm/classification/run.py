"""A classifier's run: from its configuration to what the loop is given, in all processes that `torchrun` started."""

from pathlib import Path

import torch
from torch import nn

from facegm.classification.classifier import BEST_FILE, MODEL_FILE, Description, ImageClassifier, save_classifier
from facegm.classification.config import ImageRunConfig
from facegm.classification.data import LabelledImages, open_images
from facegm.classification.task import ImageTask
from facegm.data.draws import DrawPlan
from facegm.errors import FacegmError
from facegm.training.distributed import Processes
from facegm.training.run import check_loss, train_in_folder
from facegm.training.run_folder import is_run
from facegm.training.setup import TrainingSetup
from facegm.training.task import Task


def train_run(config: ImageRunConfig, folder: Path, *, is_profiled: bool = False) -> None:
    """Train in a run folder to the end: begin there, or go on from its newest checkpoint.

    Args:
        config: what to train.
        folder: the run folder, made when missing.
        is_profiled: whether to record some steps by torch.profiler.

    Raises:
        FacegmError: the data is unusable, or as `train_in_folder` says.
        StoppedError: SIGTERM, SIGHUP or Ctrl-C came while training; the run is saved.
    """
    is_run(folder)
    images = open_images(config.data, "train")
    test = open_images(config.data, "test", classes=images.classes)

    def build(processes: Processes) -> TrainingSetup[nn.Module]:
        return image_setup(config, images, test, folder, processes)

    train_in_folder(folder, build, is_profiled=is_profiled)


def image_setup(
    config: ImageRunConfig, images: LabelledImages, test: LabelledImages, run: Path, processes: Processes
) -> TrainingSetup[nn.Module]:
    """What the loop is given: a new network, and the classifier to be exported into the run folder.

    Args:
        config: what to train.
        images: to train on.
        test: to evaluate on.
        run: the run folder.
        processes: this process among those of the run.

    Raises:
        FacegmError: network or loss do not go with the images or the processes.
    """
    if config.loss.is_split and processes.world_size > 1:
        raise FacegmError(
            f"loss.{config.loss.name}.shard_means: a classifier cannot be evaluated with its class vectors split; set "
            "it to false"
        )
    torch.manual_seed(config.train.seed)
    description = Description(
        model=config.model,
        loss=config.loss,
        preprocessing=config.preprocessing,
        classes=images.classes,
        channels=images.channels,
        side=images.side,
        resize=config.data.resize if config.data.set == "folder" else None,
    )
    classifier = ImageClassifier(description)
    check_loss(config.loss, len(images.classes), classifier.feature_dim, processes)

    def export(task: Task[nn.Module], is_best: bool) -> Path:
        file = run / (BEST_FILE if is_best else MODEL_FILE)
        save_classifier(file, description, task.state_dict())
        return file

    samples = images.samples
    return TrainingSetup(
        title=f"{len(samples):,} images of {len(images.classes)} classes, {config.model.name}, {config.loss}",
        task=ImageTask(classifier, images.crop),
        samples=samples,
        plan=DrawPlan(
            labels=samples.labels,
            batch_size=config.train.batch_size,
            epochs=config.train.epochs,
            seed=config.train.seed,
        ),
        residency=config.data.residency,
        workers=config.data.workers,
        optimizer=config.optimizer,
        train=config.train,
        config=config,
        data=f"{len(samples)} images of {len(images.classes)} classes ({samples.fingerprint})",
        export=export,
        validation=test.samples,
        validate_every=config.validation.every_epochs,
    )
