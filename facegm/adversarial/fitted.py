"""Detectors of a trained classifier: fitted once on its training images, and kept beside its weights."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from facegm.adversarial.density_objective import density_thresholds
from facegm.adversarial.detectors.base import ClassDensity, Detector, UnsupervisedDetector
from facegm.adversarial.detectors.detector_file import load_detector, save_detector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.i_defender import IDefender
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.mahalanobis import Mahalanobis
from facegm.adversarial.observations import Observations
from facegm.adversarial.trained import TrainedClassifier
from facegm.data.weights import digest_of
from facegm.errors import FacegmError, UsageError
from facegm.losses.gm_module import GMLoss

logger = logging.getLogger(__name__)

FOLDER = "detectors"
"""Beside the weights."""
MOST_OBSERVED = 60_000
"""Training images that a detector is fitted on, drawn of those that there are."""
CENTERS = 100
"""Training images of a class by which an attacker estimates K-density (Carlini and Wagner 2017)."""
_KINDS: dict[str, type[KDensity] | type[Mahalanobis] | type[IDefender]] = {
    kind.name: kind for kind in (KDensity, Mahalanobis, IDefender)
}
NAMES = (*_KINDS, GMLikelihood.name)
"""Of the detectors that are fitted on clean images alone, or on none."""


class AttackedDetector(NamedTuple):
    """A detector as attacks see it, that know it."""

    name: str
    density: ClassDensity
    thresholds: Float[Tensor, " classes"]
    """Of -log density, by class; see `density_thresholds`."""
    fingerprint: str
    """A short digest of all that it knows."""


class FittedDetectors:
    """The detectors of a classifier.

    Args:
        trained: the classifier.
    """

    def __init__(self, trained: TrainedClassifier) -> None:
        self._trained = trained
        self._training: Observations | None = None

    @property
    def usual(self) -> list[str]:
        """Names of those that are asked where none is named; the likelihood first, which needs no training images."""
        likelihood = [GMLikelihood.name] if isinstance(self._trained.classifier.loss, GMLoss) else []
        return [*likelihood, *([] if self._trained.trained_on is None else [KDensity.name])]

    def named(self, choices: Sequence[str]) -> dict[str, UnsupervisedDetector]:
        """Detectors by name, on the classifier's device.

        Args:
            choices: each one of `NAMES`, or the file of a fitted detector.

        Raises:
            FacegmError: a file is missing, damaged or of another network, or the training images are.
            UsageError: there is no such detector, or none of such a classifier.
        """
        found = {}
        for choice in choices:
            detector = self._by_name(choice) if choice in NAMES else self._from_file(Path(choice))
            found[detector.name if choice in NAMES else choice] = detector.to(self._trained.subject.device)
        return found

    def attacked(self, detectors: dict[str, UnsupervisedDetector]) -> AttackedDetector:
        """The first of some detectors, as an attack on network and detector sees it.

        Raises:
            UsageError: there is none, or it is not of a kind that attacks know.
        """
        if not detectors:
            raise UsageError("--detector: an attack that defeats a detector needs one; name k-density")
        name, detector = next(iter(detectors.items()))
        if isinstance(detector, KDensity):
            density = detector.subset(CENTERS, seed=0)
        elif isinstance(detector, GMLikelihood):
            density = detector.log_density
        else:
            raise UsageError(
                f"--detector: {name}: attacks know {KDensity.name} and {GMLikelihood.name}; name one of them first"
            )
        device = self._trained.subject.device
        training = self.training
        assert training.labels is not None
        training = Observations(
            features=training.features.to(device), logits=training.logits.to(device), labels=training.labels.to(device)
        )
        fingerprint = f"{detector.name} {digest_of(detector.state())[:16]}"
        return AttackedDetector(name, density, density_thresholds(density, training), fingerprint)

    @property
    def training(self) -> Observations:
        """What the classifier makes of its training images, or of as many as detectors take, in a random order."""
        if self._training is None:
            images = self._trained.training_images
            numbers = np.random.default_rng(0).permutation(len(images.samples))[:MOST_OBSERVED]
            self._training = self._trained.observe(images, numbers)
        return self._training

    def _by_name(self, name: str) -> UnsupervisedDetector:
        if name == GMLikelihood.name:
            loss = self._trained.classifier.loss
            if not isinstance(loss, GMLoss):
                raise UsageError(
                    f"--detector: {name}: a classifier with the {self._trained.classifier.description.loss.name} loss "
                    f"has no likelihood; name {KDensity.name}"
                )
            return GMLikelihood(loss.means)
        file = self._trained.file.parent / FOLDER / f"{name}-{self._trained.fingerprint}.safetensors"
        if file.exists():
            try:
                return _unsupervised(file, load_detector(file))
            except FacegmError as error:
                logger.warning(f"{error}; it is fitted anew")
        detector = _KINDS[name]().fit(self.training)
        file.parent.mkdir(exist_ok=True)
        save_detector(file, detector)
        return detector

    def _from_file(self, file: Path) -> UnsupervisedDetector:
        if not file.is_file():
            names = ", ".join(NAMES)
            raise UsageError(f"--detector: {file}: no such detector; there are {names}, and files of fitted ones")
        return _unsupervised(file, load_detector(file))


def _unsupervised(file: Path, detector: Detector) -> UnsupervisedDetector:
    if not isinstance(detector, UnsupervisedDetector):
        raise UsageError(
            f"{file}: {detector.name} looks at more than features, which is for Python; name one of {', '.join(NAMES)}"
        )
    return detector
