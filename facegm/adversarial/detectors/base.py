"""What all detectors have in common: they are fitted to observations, score others, and are kept as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, jaxtyped
from torch import Tensor

from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError, UsageError

ClassDensity = Callable[[Float[Tensor, "batch dim"], Int64[Tensor, " batch"]], Float[Tensor, " batch"]]
"""How dense each feature lies under a class, in the log and up to a constant; differentiable. So attacks see a
detector."""
DetectorT = TypeVar("DetectorT", bound="Detector")


class Detector(ABC):
    """Tells normal inputs from others, in scikit-learn's manner: the constructor only stores, what is fitted ends in _.

    It computes in float64, on the CPU or where `to` has brought it.
    """

    name: ClassVar[str]
    """By which it is asked for, and known in its file."""

    @classmethod
    def tensors(cls) -> dict[str, Any]:
        """All that it knows beside its settings: the attributes that its class annotates, of such dimensions."""
        return {name: kind for name, kind in get_type_hints(cls).items() if get_origin(kind) is not ClassVar}

    @abstractmethod
    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        """Score images; fitted, and features are finite."""

    def score_samples(self, observed: Observations) -> Float64[np.ndarray, " images"]:
        """Score images; higher for normal ones.

        Raises:
            FacegmError: a feature is not finite or of another length, or what the detector looks at was not observed.
            UsageError: the detector is not fitted.
        """
        self._check_fitted()
        check_features(observed)
        with torch.no_grad():
            return self._score(observed).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON has them."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What it knows, by name.

        Raises:
            UsageError: it is not fitted.
        """
        self._check_fitted()
        return {name: getattr(self, name) for name in self.tensors()}

    @classmethod
    def from_state(cls: type[DetectorT], settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> DetectorT:
        """A fitted detector, of what `settings` and `state` gave.

        Raises:
            ValueError: tensors are missing, or not of the shapes that belong together.
        """
        detector = cls(**settings)
        detector._restore(state)
        return detector

    def _check_fitted(self) -> None:
        if not all(hasattr(self, name) for name in self.tensors()):
            raise UsageError(f"{self.name}: the detector is not fitted; call fit first")

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        tensors = self.tensors()
        if set(state) != set(tensors):
            raise ValueError(f"tensors {', '.join(sorted(state)) or 'none'}, must be {', '.join(tensors)}")
        with jaxtyped("context"):
            wrong = [name for name, kind in tensors.items() if not isinstance(state[name], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]}: {list(state[wrong[0]].shape)} of {state[wrong[0]].dtype}")
        for name, tensor in state.items():
            setattr(self, name, tensor)

    def to(self: DetectorT, device: torch.device) -> DetectorT:
        """Bring what it knows to a device, where it then computes; returns itself."""
        for name, tensor in self.state().items():
            setattr(self, name, tensor.to(device))
        return self


class UnsupervisedDetector(Detector):
    """A detector that has seen normal images alone."""

    @abstractmethod
    def fit(self: DetectorT, clean: Observations) -> DetectorT:
        """Fit to training images with their labels.

        Raises:
            FacegmError: there are no labels, a class has too few images, or a feature is not finite.
        """


class SupervisedDetector(Detector):
    """A detector that is shown an attack; what it then says of that attack is worth less than of another."""

    @abstractmethod
    def fit(self: DetectorT, clean: Observations, *, noisy: Observations, adversarial: Observations) -> DetectorT:
        """Fit to images in three states; they must be others than those that are scored, which the caller sees to.

        Args:
            clean: normal ones.
            noisy: normal ones too: with noise as large as the attack's changes.
            adversarial: after the attack.

        Raises:
            FacegmError: there are too few, or what the detector looks at was not observed.
        """


def check_features(observed: Observations) -> None:
    """Refuse features that are not finite.

    Raises:
        FacegmError: one is not.
    """
    is_finite = observed.features.isfinite().all(dim=1)
    if not is_finite.all():
        first, count = int(is_finite.int().argmin()), int((~is_finite).sum())
        raise FacegmError(
            f"features: those of image {first} are not finite, as of {count:,} of {len(is_finite):,} images; look at "
            "the images and at the network's weights"
        )


def features_like(observed: Observations, known: Float64[Tensor, "_ dim"]) -> Float64[Tensor, "images dim"]:
    """Features in float64, where the detector computes.

    Args:
        observed: of images.
        known: what the detector knows of features.

    Raises:
        FacegmError: their lengths differ.
    """
    dim = observed.features.shape[1]
    if dim != known.shape[1]:
        raise FacegmError(
            f"features: {dim} numbers each, and the detector knows some of {known.shape[1]}; it is another network's"
        )
    return observed.features.to(known)


def features_by_class(clean: Observations, *, least: int = 1) -> list[Float64[Tensor, "images dim"]]:
    """Features of each class, by the true labels.

    Args:
        clean: of training images.
        least: images that a class must have.

    Raises:
        FacegmError: there are no labels, or others than the classes, a class has fewer images, or a feature is not
            finite.
    """
    check_features(clean)
    labels, classes = clean.labels, clean.logits.shape[1]
    if labels is None:
        raise FacegmError("labels: a detector is fitted to images of known classes; observe them with their labels")
    if not ((labels >= 0) & (labels < classes)).all():
        raise FacegmError(
            f"labels: from {labels.min()} to {labels.max()}, and the network knows classes 0 to {classes - 1}; fit to "
            "the images that it was trained on"
        )
    found = [clean.features[labels == number].double() for number in range(classes)]
    for number, some in enumerate(found):
        if len(some) < least:
            raise FacegmError(
                f"labels: {len(some)} images of class {number}, and the detector needs {least} of each; give more"
            )
    return found


def check_sizes(sizes: Int64[Tensor, " classes"], rows: Tensor) -> None:
    """Refuse sizes of classes that do not fit what is split by them.

    Raises:
        ValueError: a class is empty, or they do not sum up to the rows.
    """
    if not (sizes > 0).all() or int(sizes.sum()) != len(rows):
        raise ValueError(f"classes of {sizes.tolist()[:10]} of {len(rows)} rows")


def under_classes(
    features: Float[Tensor, "images dim"],
    classes: Int64[Tensor, " images"],
    density: Callable[[Float[Tensor, "some dim"], int], Float[Tensor, " some"]],
) -> Float[Tensor, " images"]:
    """A density of each feature, computed class by class; differentiable where the density is.

    Args:
        features: of images.
        classes: under which of them each is looked at.
        density: of features, under one class.
    """
    found = features.new_empty(len(features))
    for number in classes.unique().tolist():
        is_own = classes == number
        found[is_own] = density(features[is_own], number)
    return found
