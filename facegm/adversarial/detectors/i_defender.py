"""I-defender: a Gaussian mixture of the features of each class (Zheng and Hong 2018)."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from facegm.adversarial.detectors.base import (
    UnsupervisedDetector,
    check_sizes,
    features_by_class,
    features_like,
    under_classes,
)
from facegm.adversarial.observations import Observations


class IDefender(UnsupervisedDetector):
    """Log-likelihood of a feature under the mixture of the predicted class: Gaussians of diagonal covariance.

    How many there are is chosen for each class by the Bayesian information criterion (BIC).

    Args:
        most_components: of a class.
        seed: where the estimation begins.
    """

    name = "i-defender"
    weights_: Float64[Tensor, " components"]
    """Of each Gaussian in its class's mixture."""
    means_: Float64[Tensor, "components dim"]
    """Of each Gaussian, class after class."""
    variances_: Float64[Tensor, "components dim"]
    """Likewise."""
    sizes_: Int64[Tensor, " classes"]
    """How many Gaussians each class has."""

    def __init__(self, most_components: int = 5, seed: int = 0) -> None:
        self.most_components = most_components
        self.seed = seed

    def settings(self) -> dict[str, int]:
        """Arguments of the constructor."""
        return {"most_components": self.most_components, "seed": self.seed}

    def fit(self, clean: Observations) -> "IDefender":
        """Estimate a mixture for each class."""
        mixtures = [self._likeliest_mixture(own.numpy()) for own in features_by_class(clean, least=2)]
        self.weights_, self.means_, self.variances_ = (
            torch.from_numpy(np.concatenate([getattr(one, part) for one in mixtures]))
            for part in ("weights_", "means_", "covariances_")
        )
        self.sizes_ = torch.tensor([one.n_components for one in mixtures])
        return self

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        super()._restore(state)
        check_sizes(self.sizes_, self.means_)
        if not ((self.weights_ > 0).all() and (self.variances_ > 0).all()):
            raise ValueError("weights or variances that are not above 0")

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        features = features_like(observed, self.means_)
        return under_classes(features, observed.predicted.to(features.device), self._log_likelihood)

    def _log_likelihood(self, features: Float64[Tensor, "some dim"], number: int) -> Float64[Tensor, " some"]:
        """Under the mixture of a class, in nats."""
        weights, means, variances = (
            part.split(self.sizes_.tolist())[number] for part in (self.weights_, self.means_, self.variances_)
        )
        parts = [
            weight.log() - 0.5 * ((features - mean).square() / variance + (2 * math.pi * variance).log()).sum(dim=1)
            for weight, mean, variance in zip(weights, means, variances, strict=True)
        ]
        return torch.stack(parts).logsumexp(dim=0)

    def _likeliest_mixture(self, features: Float64[np.ndarray, "images dim"]) -> GaussianMixture:
        most = min(self.most_components, len(np.unique(features, axis=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of a likelihood that is compared
            mixtures = [
                GaussianMixture(count, covariance_type="diag", random_state=self.seed).fit(features)
                for count in range(1, most + 1)
            ]
        return min(mixtures, key=lambda mixture: float(mixture.bic(features)))
