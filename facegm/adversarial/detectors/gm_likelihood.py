"""The likelihood that the GM loss itself gives a feature: its means are the detector, and nothing is fitted."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from facegm.adversarial.detectors.base import UnsupervisedDetector, features_like
from facegm.adversarial.observations import Observations
from facegm.losses.gm import gm_logits

_BATCH = 1_000
"""Features at a time."""


class GMLikelihood(UnsupervisedDetector):
    """-min_k s_k, s_k = ||x - mu_k||^2 / 2: the log-likelihood under the nearest class's Gaussian, up to a constant.

    Args:
        means: mu, of a network trained with the GM loss.
    """

    name = "gm-likelihood"
    means: Float64[Tensor, "classes dim"]

    def __init__(self, means: Float[Tensor, "classes dim"]) -> None:
        self.means = means.detach().double().cpu()

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> "GMLikelihood":
        """The detector of such means."""
        detector = cls(**settings, means=state["means"])
        detector._restore(state)
        return detector

    def fit(self, clean: Observations) -> "GMLikelihood":  # noqa: ARG002 - there is nothing to fit
        """Leave it as it is."""
        return self

    def log_density(
        self, features: Float[Tensor, "batch dim"], classes: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """-s_k of each feature for a class k; differentiable, in the features' precision. A `ClassDensity`."""
        difference = features.to(self.means.dtype) - self.means[classes]
        return -0.5 * difference.to(features.dtype).square().sum(dim=1)

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        features = features_like(observed, self.means)
        nearest = [gm_logits(some, self.means).argmax(dim=1) for some in features.split(_BATCH)]
        return self.log_density(features, torch.cat(nearest))
