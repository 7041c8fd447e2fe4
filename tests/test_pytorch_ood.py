"""Our detectors by pytorch-ood's calls, and its own by ours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from observed import CENTERS, observed
from torch import Tensor

from facegm.adversarial.detectors.base import UnsupervisedDetector
from facegm.adversarial.detectors.detector_file import save_detector
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.mahalanobis import Mahalanobis
from facegm.adversarial.detectors.pytorch_ood import AsPytorchOOD, FromPytorchOOD
from facegm.errors import FacegmError, UsageError


class Distance:
    """To the mean of all features, as pytorch-ood would have it."""

    def fit_features(self, z: Tensor, y: Tensor) -> "Distance":
        assert y.dtype == torch.int64
        self.mean = z[y >= 0].mean(dim=0)
        return self

    def predict_features(self, z: Tensor) -> Tensor:
        distances: Tensor = (z - self.mean).norm(dim=1)
        return distances


def logits_of(features: Tensor) -> Tensor:
    return features @ CENTERS.T


@pytest.mark.parametrize("detector", [KDensity(0.8), Mahalanobis()], ids=lambda one: one.name)
def test_ours_by_their_calls(detector: UnsupervisedDetector) -> None:
    """Higher for outliers; images of no class are not fitted to; a class is predicted of the features."""
    train, seen = observed(60), observed(20, seed=1)
    assert train.labels is not None
    expected = detector.fit(train).score_samples(replace(seen, logits=logits_of(seen.features)))
    outliers = torch.full((7, 5), 50.0)
    z = torch.cat([train.features, outliers]).requires_grad_()
    y = torch.cat([train.labels, torch.full((7,), -1)])
    adapted = AsPytorchOOD(detector, logits_of)
    assert adapted.fit_features(z, y) is adapted
    found = adapted.predict_features(seen.features.clone().requires_grad_())
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), -expected, rtol=1e-12)
    assert (adapted.predict_features(outliers) > found.max()).all()


def test_theirs_by_our_calls() -> None:
    train, seen = observed(60), observed(20, seed=1)
    detector = FromPytorchOOD(Distance())
    assert detector.fit(train) is detector
    found = detector.score_samples(seen)
    assert found.dtype == np.float64
    mean = train.features.mean(dim=0)
    np.testing.assert_allclose(found, -(seen.features - mean).norm(dim=1).numpy(), rtol=1e-6)
    with pytest.raises(FacegmError, match="not finite"):
        detector.score_samples(replace(seen, features=seen.features * torch.nan))
    with pytest.raises(FacegmError, match=r"^labels: a detector is fitted to images of known classes"):
        detector.fit(replace(train, labels=None))


def test_theirs_have_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a detector of pytorch-ood cannot be kept"):
        save_detector(tmp_path / "x", FromPytorchOOD(Distance()).fit(observed(60)))


@pytest.mark.peers
def test_mahalanobis_is_pytorch_ood_s() -> None:
    """Theirs is half our distance with the covariance times the images, in float32."""
    from pytorch_ood.detector import Mahalanobis as TheirMahalanobis

    train, seen = observed(60), observed(40, seed=1)
    ours = Mahalanobis().fit(train).score_samples(seen)
    theirs = FromPytorchOOD(TheirMahalanobis(None)).fit(train).score_samples(seen)
    np.testing.assert_allclose(theirs * 2 * 60, ours, rtol=1e-4)


@pytest.mark.peers
def test_their_detectors_run_by_our_calls() -> None:
    from pytorch_ood.detector import GMM, KNN

    train, normal, odd = observed(60), observed(40, seed=1), observed(40, seed=1, spread=6.0)
    for theirs in (KNN(None, k=5), GMM(None)):
        detector = FromPytorchOOD(theirs).fit(train)
        assert np.median(detector.score_samples(normal)) > np.median(detector.score_samples(odd))
