"""Detectors that see clean images alone: each against what its formula says, written out in float64."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from observed import CLASSES, DIM, observed
from scipy.stats import multivariate_normal
from torch import Tensor

from facegm.adversarial.detectors.base import UnsupervisedDetector
from facegm.adversarial.detectors.gm_likelihood import GMLikelihood
from facegm.adversarial.detectors.i_defender import IDefender
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.mahalanobis import Mahalanobis
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError, UsageError

MEANS = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(5))


def unsupervised() -> list[UnsupervisedDetector]:
    return [KDensity(1.0), GMLikelihood(MEANS), Mahalanobis(), IDefender(2)]


def own_features(train: Observations) -> list[np.ndarray]:
    assert train.labels is not None
    return [train.features[train.labels == number].double().numpy() for number in range(CLASSES)]


@pytest.mark.parametrize("origin", [0.0, 1e4])
def test_the_gm_likelihood_is_half_the_squared_distance_to_the_nearest_mean(origin: float) -> None:
    seen = observed(50, seed=1)
    seen = replace(seen, features=seen.features + origin)
    found = GMLikelihood(MEANS + origin).score_samples(seen)
    assert found.dtype == np.float64
    nearest = set()
    for x, score in zip(seen.features.tolist(), found, strict=True):
        distances = [
            math.fsum((a - b) ** 2 for a, b in zip(x, mu, strict=True)) / 2 for mu in (MEANS + origin).tolist()
        ]
        nearest.add(distances.index(min(distances)))
        assert score == pytest.approx(-min(distances), rel=1e-9)
    assert nearest == {0, 1, 2}


def test_attacks_see_the_likelihood_under_a_class_and_its_gradient() -> None:
    features, classes = observed(4, seed=1).features.requires_grad_(), torch.tensor([2, 0, 1, 2])
    found = GMLikelihood(MEANS).log_density(features, classes)
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert found.dtype == torch.float32
    for x, number, value, slope in zip(features.detach(), classes, found, gradient, strict=True):
        difference = x.double() - MEANS[number].double()
        assert value.item() == pytest.approx(-difference.square().sum().item() / 2, rel=1e-6)
        torch.testing.assert_close(slope.double(), -difference, rtol=1e-6, atol=1e-6)


def test_mahalanobis_has_the_classes_means_and_one_covariance() -> None:
    train, seen = observed(60), observed(40, seed=1)
    found = Mahalanobis().fit(train).score_samples(seen)
    means, covariance = [], np.zeros((DIM, DIM))
    for own in own_features(train):
        mean = sum(own) / len(own)
        means.append(mean)
        for x in own:
            covariance += np.outer(x - mean, x - mean) / 60
    for x, score in zip(seen.features.double().numpy(), found, strict=True):
        distances = [(x - mean) @ np.linalg.solve(covariance, x - mean) for mean in means]
        assert score == pytest.approx(-min(distances), rel=1e-9)


def test_mahalanobis_looks_past_features_that_never_vary() -> None:
    """A ReLU that is dead in training has no variance to divide by."""
    train, seen = observed(60), observed(40, seed=1)
    dead = torch.zeros(60, 1)
    wider = replace(train, features=torch.cat([train.features, dead], dim=1))
    seen_wider = replace(seen, features=torch.cat([seen.features, torch.randn(40, 1)], dim=1))
    expected = Mahalanobis().fit(train).score_samples(seen)
    np.testing.assert_allclose(Mahalanobis().fit(wider).score_samples(seen_wider), expected, rtol=1e-9)


def test_mahalanobis_needs_two_images_of_a_class() -> None:
    with pytest.raises(FacegmError, match=r"^features: no two of a class differ"):
        Mahalanobis().fit(observed(CLASSES))


def test_i_defender_is_the_mixture_of_the_predicted_class() -> None:
    train, seen = observed(90), observed(30, seed=1)
    detector = IDefender(3, seed=4).fit(train)
    found = detector.score_samples(seen)
    starts = np.cumsum([0, *detector.sizes_.tolist()])
    for i in range(30):
        number = int(seen.predicted[i])
        total = 0.0
        for j in range(starts[number], starts[number + 1]):
            density = multivariate_normal(detector.means_[j].numpy(), np.diag(detector.variances_[j].numpy()))
            total += float(detector.weights_[j]) * density.pdf(seen.features[i].double().numpy())
        assert found[i] == pytest.approx(math.log(total), rel=1e-9)
    assert sum(detector.weights_[: starts[1]]) == pytest.approx(1.0)


def test_i_defender_finds_the_parts_of_a_class_and_no_more() -> None:
    """By BIC: one class is of two well separated parts, the others of one."""
    train = observed(240)
    assert train.labels is not None
    features = train.features.clone()
    second = torch.arange(240) % (2 * CLASSES) == 1  # half of class 1
    features[second] += torch.tensor([0, 30.0, 0, 0, 0])
    detector = IDefender(4).fit(replace(train, features=features))
    assert detector.sizes_.tolist() == [1, 2, 1]
    own = features[train.labels == 0].double()
    torch.testing.assert_close(detector.means_[0], own.mean(dim=0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(detector.variances_[0], own.var(dim=0, correction=0), rtol=1e-4, atol=1e-4)
    assert sorted(round(float(mean[1]), -1) for mean in detector.means_[1:3]) == [0, 30]


def test_i_defender_takes_images_that_are_all_alike() -> None:
    train = observed(9)
    alike = replace(train, features=torch.ones(9, DIM))
    assert IDefender().fit(alike).sizes_.tolist() == [1, 1, 1]
    with pytest.raises(FacegmError, match=r"^labels: 1 images of class 0, and the detector needs 2 of each"):
        IDefender().fit(observed(CLASSES))


@pytest.mark.parametrize("detector", unsupervised(), ids=lambda one: one.name)
def test_normal_images_score_higher(detector: UnsupervisedDetector) -> None:
    """Protects the sign: a feature between the classes, or far out, is the less normal one."""
    if isinstance(detector, GMLikelihood):
        detector = GMLikelihood(torch.stack([x.mean(dim=0) for x in map(torch.tensor, own_features(observed(60)))]))
    detector.fit(observed(60))
    normal = detector.score_samples(observed(60, seed=1))
    odd = detector.score_samples(observed(60, seed=1, spread=5.0))
    assert np.median(normal) > np.percentile(odd, 75)


@pytest.mark.parametrize("detector", unsupervised(), ids=lambda one: one.name)
def test_features_that_cannot_be_scored_are_refused(detector: UnsupervisedDetector) -> None:
    train, seen = observed(30), observed(5, seed=1)
    detector.fit(train)
    for value in (math.nan, math.inf, -math.inf):
        features = seen.features.clone()
        features[3, 1] = features[4, 0] = value
        with pytest.raises(FacegmError, match=r"^features: those of image 3 are not finite, as of 2 of 5 images"):
            detector.score_samples(replace(seen, features=features))
    with pytest.raises(FacegmError, match=r"^features: 4 numbers each, and the detector knows some of 5"):
        detector.score_samples(replace(seen, features=seen.features[:, 1:]))
    assert detector.score_samples(replace(seen, features=seen.features[:0], logits=seen.logits[:0])).shape == (0,)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"labels": None}, r"^labels: a detector is fitted to images of known classes"),
    "unknown class": ({"labels": torch.arange(30) % 4}, r"^labels: from 0 to 3, and the network knows classes 0 to 2"),
    "negative class": ({"labels": torch.arange(30) % 3 - 1}, r"^labels: from -1 to 1"),
    "empty class": (
        {"labels": torch.arange(30) % 2},
        r"^labels: 0 images of class 2, and the detector needs \d of each",
    ),
    "not finite": ({"features": torch.full((30, DIM), math.nan)}, r"^features: those of image 0 are not finite"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("detector", [KDensity(), Mahalanobis(), IDefender()], ids=lambda one: one.name)
def test_images_that_cannot_be_fitted_to_are_refused(detector: UnsupervisedDetector, case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(FacegmError, match=message):
        detector.fit(replace(observed(30), **change))


@pytest.mark.parametrize("detector", [KDensity(), Mahalanobis(), IDefender()], ids=lambda one: one.name)
def test_before_it_is_fitted_a_detector_says_so(detector: UnsupervisedDetector) -> None:
    for use in (lambda: detector.score_samples(observed(3)), detector.state, lambda: detector.to(torch.device("cpu"))):
        with pytest.raises(UsageError, match=rf"^{detector.name}: the detector is not fitted"):
            use()


@pytest.mark.parametrize("detector", unsupervised(), ids=lambda one: one.name)
def test_fitting_again_forgets_what_was(detector: UnsupervisedDetector) -> None:
    first, other, seen = observed(60), observed(45, seed=3), observed(9, seed=1)
    expected = detector.fit(first).score_samples(seen)
    assert detector.fit(other) is detector
    np.testing.assert_array_equal(detector.fit(first).score_samples(seen), expected)


@pytest.mark.parametrize("detector", unsupervised(), ids=lambda one: one.name)
def test_it_computes_where_it_is_brought(detector: UnsupervisedDetector) -> None:
    """On the meta device, which has no numbers; so whatever is left behind would be noticed."""
    detector.fit(observed(30)).to(torch.device("meta"))
    assert {tensor.device.type for tensor in detector.state().values()} == {"meta"}


def test_fitting_leaves_what_is_observed_as_it_is() -> None:
    train = observed(30)
    before: list[Tensor] = [train.features.clone(), train.logits.clone()]
    for detector in unsupervised():
        detector.fit(train).score_samples(train)
    assert torch.equal(train.features, before[0])
    assert torch.equal(train.logits, before[1])
