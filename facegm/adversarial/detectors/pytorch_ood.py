"""Detectors of features by pytorch-ood's calls and by ours, each side's in the other's clothes.

Neither side is imported: the calls are all that counts.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from facegm.adversarial.detectors.base import UnsupervisedDetector, features_by_class
from facegm.adversarial.observations import Observations


class FeaturesDetector(Protocol):
    """What pytorch-ood's detectors of features offer."""

    def fit_features(self, z: Tensor, y: Tensor) -> Any:
        """Fit to features [images, dim] and labels, which are negative for images of no class."""

    def predict_features(self, z: Tensor) -> Tensor:
        """Score features [images, dim]; higher for outliers."""


class AsPytorchOOD:
    """One of our detectors, to be called as pytorch-ood calls its own; see `FeaturesDetector`.

    Args:
        detector: ours.
        logits: of features, by the last layer of the network that they are of: it predicts their classes.
    """

    def __init__(
        self,
        detector: UnsupervisedDetector,
        logits: Callable[[Float[Tensor, "images dim"]], Float[Tensor, "images classes"]],
    ) -> None:
        self.detector, self.logits = detector, logits

    def fit_features(self, z: Float[Tensor, "images dim"], y: Int64[Tensor, " images"]) -> "AsPytorchOOD":
        """Fit to the features of images that are of a class."""
        is_known = y >= 0
        self.detector.fit(self._observed(z[is_known], y[is_known].cpu()))
        return self

    def predict_features(self, z: Float[Tensor, "images dim"]) -> Float64[Tensor, " images"]:
        """Outlier scores, where the features lie."""
        return torch.from_numpy(-self.detector.score_samples(self._observed(z))).to(z.device)

    @torch.no_grad()
    def _observed(self, z: Tensor, labels: Tensor | None = None) -> Observations:
        return Observations(features=z.detach().cpu(), logits=self.logits(z).cpu(), labels=labels)


class FromPytorchOOD(UnsupervisedDetector):
    """One of pytorch-ood's detectors of features as ours; it has no file.

    Args:
        detector: theirs.
    """

    name = "pytorch-ood"

    def __init__(self, detector: FeaturesDetector) -> None:
        self.detector = detector

    def fit(self, clean: Observations) -> "FromPytorchOOD":
        """Fit it to the features of training images."""
        features_by_class(clean)
        assert clean.labels is not None
        self.detector.fit_features(clean.features, clean.labels)
        return self

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        return -self.detector.predict_features(observed.features).double()
