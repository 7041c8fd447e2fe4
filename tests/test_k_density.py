"""K-density is the mean of Gaussians, wherever features lie, and its bandwidth is chosen by clean images alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import CLASSES, DIM, observed
from torch import Tensor

from facegm.adversarial.detectors import kernels
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kernels import BANDWIDTHS, likeliest_bandwidth, log_density
from facegm.adversarial.observations import Observations
from facegm.errors import FacegmError, UsageError


def naive_log_mean(point: list[float], centers: list[list[float]], h: float) -> float:
    """Of exp(-||x - c||^2 / (2 h^2)); the largest is taken out before exp, and sums are exact."""
    exponents = [-math.fsum((a - b) ** 2 for a, b in zip(point, c, strict=True)) / (2 * h * h) for c in centers]
    top = max(exponents)
    return top + math.log(math.fsum(math.exp(e - top) for e in exponents)) - math.log(len(centers))


@pytest.mark.parametrize("dim", [2, 64, 512])
@pytest.mark.parametrize("origin", [0.0, 1e4], ids=["around 0", "far from 0"])
def test_it_is_brute_force_in_every_dimension(dim: int, origin: float) -> None:
    rng = np.random.default_rng(dim)
    features = (rng.normal(size=(24, dim)) + origin).astype(np.float32)
    labels = np.arange(24) % CLASSES
    points = np.concatenate([features[:6] + 0.1, features[:3] * 1.5, [features[0] + 30]]).astype(np.float32)
    if origin == 0:  # where exp is 0 of all centers: some 10 to 1,000 nats and more below
        assert math.exp(-((points[-1] - features) ** 2).sum(axis=1).min() / 2) == 0
    predicted = torch.arange(len(points)) % CLASSES
    train = Observations(
        features=torch.from_numpy(features), logits=torch.zeros(24, CLASSES), labels=torch.from_numpy(labels)
    )
    seen = Observations(features=torch.from_numpy(points), logits=torch.eye(CLASSES)[predicted])
    found = KDensity(bandwidth=1.3).fit(train).score_samples(seen)
    assert found.dtype == np.float64
    for point, number, score in zip(points, predicted.tolist(), found, strict=True):
        expected = naive_log_mean(point.tolist(), features[labels == number].tolist(), 1.3)
        assert score == pytest.approx(expected, rel=1e-12, abs=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    data=st.data(),
    dim=st.integers(1, 4),
    bandwidth=st.floats(0.05, 10),
    points=st.integers(1, 5),
    centers=st.integers(1, 5),
)
def test_density_is_brute_force_for_any_points(
    data: st.DataObject, dim: int, bandwidth: float, points: int, centers: int
) -> None:
    """Ties, points on centers, and points far away."""
    number = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1.0]))
    rows = st.lists(number, min_size=dim, max_size=dim)
    x = data.draw(st.lists(rows, min_size=points, max_size=points))
    c = data.draw(st.lists(rows, min_size=centers, max_size=centers))
    found = log_density(torch.tensor(x, dtype=torch.float64), torch.tensor(c, dtype=torch.float64), bandwidth)
    constant = dim * math.log(bandwidth) + dim / 2 * math.log(2 * math.pi)
    expected = [naive_log_mean(point, c, bandwidth) - constant for point in x]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-6)


def test_density_is_the_mean_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    points, centers = rng.normal(size=(70, 2)) * 3, rng.normal(size=(50, 2)) * 2
    for h in (1.0, 0.3):
        expected = []
        for x, y in points.tolist():
            total = 0.0
            for a, b in centers.tolist():
                total += math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * h * h)) / (2 * math.pi * h * h)
            expected.append(math.log(total / 50))
        found = log_density(torch.from_numpy(points), torch.from_numpy(centers), h)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    far = log_density(torch.tensor([[1000.0, 0.0]]), torch.zeros(3, 2), 1.0)  # where exp would be 0
    assert far.item() == pytest.approx(-500_000 - math.log(2 * math.pi), rel=1e-12)


def test_it_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the bound on memory: no more kernels at a time than a block has, of one point at least."""
    train, seen, largest = observed(60), observed(41, seed=1), []
    expected = KDensity(1.0).fit(train).score_samples(seen)
    addmm = torch.addmm

    def watched(*arguments: Tensor) -> Tensor:
        found = addmm(*arguments)
        largest.append(found.shape)
        return found

    monkeypatch.setattr(torch, "addmm", watched)
    for points, columns in ((1, 1), (3, 7)):  # of 41 and 20
        largest.clear()
        monkeypatch.setattr(kernels, "_POINTS", points)
        monkeypatch.setattr(kernels, "_COLUMNS", columns)
        np.testing.assert_allclose(KDensity(1.0).fit(train).score_samples(seen), expected, rtol=1e-12)
        assert [max(sides) for sides in zip(*largest, strict=True)] == [points, columns]


def test_centers_are_those_of_the_predicted_class() -> None:
    """An adversarial image is looked at with the class that it is taken for, whatever its own is."""
    train, seen = observed(60), observed(31, seed=1)
    found = KDensity(0.8).fit(train).score_samples(seen)
    assert train.labels is not None
    assert seen.labels is not None
    assert (seen.predicted != seen.labels).any()
    for i in range(31):
        own = train.features[train.labels == seen.predicted[i]].tolist()
        assert found[i] == pytest.approx(naive_log_mean(seen.features[i].tolist(), own, 0.8), rel=1e-9)
    unlabelled = KDensity(0.8).fit(train).score_samples(replace(seen, labels=None))
    np.testing.assert_array_equal(unlabelled, found)


def test_attacks_see_the_same_density_and_its_gradient() -> None:
    train, seen = observed(60), observed(9, seed=1)
    detector = KDensity(0.8).fit(train)
    features, classes = seen.features.double().requires_grad_(), torch.tensor([2, 2, 0, 1, 1, 0, 2, 0, 1])
    found = detector.log_density(features, classes)
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert train.labels is not None
    for i in range(9):
        z = seen.features[i].double()
        own = train.features[train.labels == classes[i]].double()
        kernels_of = torch.exp(-(z - own).square().sum(dim=1) / (2 * 0.8**2))
        assert found[i].item() == pytest.approx(math.log(kernels_of.mean()), rel=1e-9)
        expected = (kernels_of[:, None] * (own - z)).sum(dim=0) / kernels_of.sum() / 0.8**2
        torch.testing.assert_close(gradient[i], expected, rtol=1e-7, atol=1e-9)
    single = detector.log_density(seen.features, classes)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, found.float(), rtol=1e-4, atol=1e-4)


def test_far_from_all_centers_there_is_a_gradient_towards_them() -> None:
    """Where a density that is not a logarithm has none; protects the attack that is to defeat the detector."""
    detector = KDensity(0.5).fit(observed(30))
    features = torch.full((1, DIM), 500.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(detector.log_density(features, torch.tensor([0])).sum(), features)
    assert (gradient < -100).all()


def test_a_subset_has_so_many_centers_of_each_class_and_is_drawn_once() -> None:
    train, seen = observed(60), observed(6, seed=1)
    detector = KDensity(0.8).fit(train)
    some = detector.subset(4, 0)
    found = some(seen.features.double(), seen.predicted)
    assert torch.equal(found, detector.subset(4, 0)(seen.features.double(), seen.predicted))
    assert not torch.equal(found, detector.subset(4, 1)(seen.features.double(), seen.predicted))
    assert train.labels is not None
    for number in range(CLASSES):  # the density of its own centers shows which they are
        own = train.features[train.labels == number].double()
        exponents = torch.arange(DIM, dtype=torch.float64).exp() * 1e-3
        probes = own + exponents * 1e-6
        density = some(probes, torch.full((len(own),), number))
        is_center = density > math.log(1 / 4.001)  # the others have no kernel of 1
        assert is_center.sum() == 4
    everything = detector.subset(1_000, 0)(seen.features.double(), seen.predicted)
    np.testing.assert_allclose(everything.numpy(), detector.score_samples(seen), rtol=1e-12)


def naive_bandwidth(classes: list[np.ndarray]) -> float:
    likelihood = {}
    for step in range(31):
        h = 10 ** (-2 + step / 10)
        total = 0.0
        for features in classes:
            held_out, others = features[::5], np.delete(features, slice(None, None, 5), axis=0)
            squares = ((held_out[:, None] - others[None]) ** 2).sum(axis=2)
            total += np.log(np.exp(-squares / (2 * h * h)).mean(axis=1) / h ** features.shape[1] + 1e-300).sum()
        likelihood[h] = total
    return max(likelihood, key=lambda h: likelihood[h])


def test_the_bandwidth_is_that_by_which_what_is_held_out_is_likeliest() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2)) * [1.0, 0.2]
    best = naive_bandwidth([features])
    assert 0.01 < best < 10
    found = likeliest_bandwidth([torch.from_numpy(features)])
    assert found == pytest.approx(best)
    assert likeliest_bandwidth([torch.from_numpy(features * 10)]) == pytest.approx(10 * best)


def test_the_bandwidth_is_of_each_class_under_its_own_density() -> None:
    """Protects from one for the density of all classes together, where each feature lies thrice."""
    train = observed(90)
    train = replace(train, features=train.features[::3].repeat_interleave(3, dim=0))
    assert train.labels is not None
    classes = [train.features[train.labels == number].double().numpy() for number in range(CLASSES)]
    detector = KDensity().fit(train)
    assert detector.bandwidth_.item() == pytest.approx(naive_bandwidth(classes))
    assert detector.bandwidth is None
    assert naive_bandwidth(classes) != pytest.approx(naive_bandwidth([train.features.double().numpy()]))


def test_a_bandwidth_costs_no_more_of_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(points: Tensor, centers: Tensor, bandwidth: float) -> Tensor:
        sizes.append((len(points), len(centers)))
        return torch.zeros(1)

    monkeypatch.setattr(kernels, "log_density", watched)
    likeliest_bandwidth([torch.zeros(20_000, 1), torch.zeros(40_000, 1), torch.zeros(5, 1)])
    assert set(sizes) == {(334, 3_334), (1, 4)}
    assert len(sizes) == 3 * len(BANDWIDTHS)


def test_a_class_of_one_image_has_one_kernel() -> None:
    train = Observations(
        features=torch.tensor([[0.0, 0.0], [3.0, 4.0]]), logits=torch.eye(2), labels=torch.tensor([0, 1])
    )
    seen = Observations(features=torch.tensor([[0.0, 0.0], [0.0, 0.0]]), logits=torch.eye(2))
    assert KDensity(1.0).fit(train).score_samples(seen).tolist() == [0.0, -12.5]
    with pytest.raises(FacegmError, match=r"^bandwidth: no class has two images"):
        KDensity().fit(train)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
def test_a_bandwidth_is_above_0(bandwidth: float) -> None:
    with pytest.raises(UsageError, match=r"^bandwidth: .*, must be above 0"):
        KDensity(bandwidth).fit(observed())
