"""Mahalanobis distance to the nearest class, with one covariance for all (Lee et al. 2018)."""

import torch
from jaxtyping import Float64
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from facegm.adversarial.detectors.base import UnsupervisedDetector, features_by_class, features_like
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError


class Mahalanobis(UnsupervisedDetector):
    """-min_k (x - mu_k)^T P (x - mu_k), P the (pseudo-)inverse of the covariance of x - mu_k within the classes.

    In directions in which training features do not vary at all a feature may lie anywhere.
    """

    name = "mahalanobis"
    means_: Float64[Tensor, "classes dim"]
    """mu, of the training features of each class."""
    precision_: Float64[Tensor, "dim dim"]
    """P."""

    def fit(self, clean: Observations) -> "Mahalanobis":
        """Estimate means and covariance."""
        classes = features_by_class(clean)
        means = torch.stack([own.mean(dim=0) for own in classes])
        from_mean = torch.cat([own - mean for own, mean in zip(classes, means, strict=True)])
        if not from_mean.any():
            raise FacegmError("features: no two of a class differ, so there is no covariance; give more images")
        covariance = EmpiricalCovariance(assume_centered=True).fit(from_mean.numpy())
        self.means_, self.precision_ = means, torch.from_numpy(covariance.precision_)
        return self

    def _score(self, observed: Observations) -> Float64[Tensor, " images"]:
        features = features_like(observed, self.means_)
        nearest = features.new_full((len(features),), torch.inf)
        for mean in self.means_:
            from_mean = features - mean
            nearest = torch.minimum(nearest, (from_mean @ self.precision_ * from_mean).sum(dim=1))
        return -nearest
