"""A trained classifier as attacks and detectors take it: its file, the images of its run, what it makes of them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from facegm.adversarial.observations import Observations
from facegm.adversarial.subject import Images, Subject
from facegm.classification.classifier import ImageClassifier, load_classifier
from facegm.classification.config import ImageDataConfig
from facegm.classification.data import open_images
from facegm.classification.prediction import ImageSet, predict, read_inputs
from facegm.data.machine import cores
from facegm.errors import FacegmError
from facegm.models.quick_network import quick_copy
from facegm.training.devices import default_device
from facegm.training.report import EVALUATION_BATCH


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedClassifier:
    """A classifier in evaluation mode, on a GPU if there is one."""

    file: Path
    """That it was read from."""
    classifier: ImageClassifier
    trained_on: ImageDataConfig | None
    """The images of its run; None where they are not known."""

    @classmethod
    def load(cls, file: Path, trained_on: ImageDataConfig | None) -> "TrainedClassifier":
        """Read a classifier.

        Raises:
            FacegmError: no such file, not a classifier of this program, or damaged.
        """
        classifier = quick_copy(load_classifier(file)).to(default_device())
        return cls(file=file, classifier=classifier, trained_on=trained_on)

    @cached_property
    def subject(self) -> Subject:
        """What is attacked."""
        return subject_of(self.classifier)

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]

    @property
    def facts(self) -> dict[str, str]:
        """What it is, in words."""
        return {"classifier": str(self.file), **self.classifier.facts}

    @property
    def training_images(self) -> ImageSet:
        """Those that it was trained on, not augmented.

        Raises:
            FacegmError: they are missing, damaged or not known.
        """
        if self.trained_on is None:
            raise FacegmError(
                f"{self.file}: a detector is fitted on training images, which are not known of a classifier alone; "
                "name its run folder, or --detector FILE, one that is fitted already"
            )
        images = open_images(self.trained_on, "train", classes=self.classifier.description.classes)
        return ImageSet(name="training images", samples=images.samples, crop=images.crop)

    def observe(self, images: ImageSet, numbers: Int64[np.ndarray, " some"] | None = None) -> Observations:
        """Features, logits and labels of images, in their order; shows progress.

        Args:
            images: the set.
            numbers: which of them; None for all.

        Raises:
            FacegmError: an image is missing or damaged.
        """
        found = predict(
            self.classifier,
            images,
            batch_size=EVALUATION_BATCH,
            workers=self._workers,
            device=self.subject.device,
            numbers=numbers,
        )
        features, logits, labels = map(torch.from_numpy, (found.features, found.logits, found.labels))
        return Observations(features=features, logits=logits, labels=labels)

    def read(self, images: ImageSet, numbers: Int64[np.ndarray, " batch"]) -> Images:
        """Some images as they are attacked, of 0 to 1, on the CPU.

        Raises:
            FacegmError: an image is missing or damaged.
        """
        parts = read_inputs(
            self.classifier.description,
            images,
            numbers,
            batch_size=EVALUATION_BATCH,
            workers=self._workers,
            device=torch.device("cpu"),
        )
        return torch.cat(list(parts)).contiguous()

    @property
    def _workers(self) -> int:
        return min(ImageDataConfig.workers if self.trained_on is None else self.trained_on.workers, cores())


def subject_of(classifier: ImageClassifier) -> Subject:
    """A classifier as attacks take it: images of 0 to 1, which it normalises itself, and logits without margin."""
    return Subject(module=classifier, features=classifier.features, logits=classifier.loss.logits)
