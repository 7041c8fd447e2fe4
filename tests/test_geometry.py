"""The theory of the optimum against tabulated values and numerical descent; the monitors against plain formulas."""

import math

import pytest
import torch
from torch import Tensor

from facegm.losses.engine import Implementation
from facegm.losses.geometry import optimal_distance
from facegm.losses.gm import GMLossTerms, gm_loss
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard


@pytest.mark.parametrize(
    ("classes", "likelihood_weight", "distance"),
    [(10, 0.1, 2.7253), (100, 0.1, 3.4624), (1000, 0.1, 4.0729), (10575, 0.001, 5.5640), (9114, 0.00003, 6.1382)],
)
def test_optimal_distance_of_eq_16(classes: int, likelihood_weight: float, distance: float) -> None:
    assert optimal_distance(classes, likelihood_weight) == pytest.approx(distance, abs=5e-5)


def test_optimal_distance_at_its_ends() -> None:
    assert optimal_distance(10, 0.0) == math.inf
    assert optimal_distance(10, 0.5) == 0.0
    assert optimal_distance(10, 0.4999) > 0


@pytest.mark.parametrize("likelihood_weight", [0.1, 0.01])
@pytest.mark.parametrize(("classes", "dim"), [(10, 12), (100, 99)])
def test_free_means_and_features_descend_to_the_optimum(classes: int, dim: int, likelihood_weight: float) -> None:
    # Independent of the closed form: only the loss is minimised, from small random points with dim >= classes - 1.
    generator = torch.Generator().manual_seed(0)
    x, mu = (0.01 * torch.randn(classes, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(classes)
    x.requires_grad_()
    mu.requires_grad_()
    optimizer = torch.optim.LBFGS([x, mu], max_iter=800, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def terms() -> GMLossTerms:
        return gm_loss(x, mu, labels, alpha=0.3, likelihood_weight=likelihood_weight)

    def closure() -> float:
        optimizer.zero_grad()
        loss = terms().total
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    distances, expected = torch.pdist(mu.detach()), optimal_distance(classes, likelihood_weight)
    assert distances.min().item() == pytest.approx(expected, abs=1e-3)
    assert distances.max().item() == pytest.approx(expected, abs=1e-3)
    found = terms()
    assert found.mean_distance.item() == pytest.approx(expected, abs=1e-3)
    assert found.own_distance.item() == pytest.approx(0, abs=1e-3)
    assert found.posterior.item() == pytest.approx(1 - 2 * likelihood_weight * (classes - 1) / classes, abs=1e-3)


def test_a_collapse_is_measured_as_one() -> None:
    mu = torch.full((50, 6), 0.1) + 1e-9 * torch.randn(50, 6)
    found = gm_loss(torch.full((4, 6), 0.1), mu, torch.arange(4), alpha=0.1, likelihood_weight=0.1)
    assert found.mean_distance.item() == pytest.approx(0, abs=1e-3)
    assert found.feature_radius.item() == pytest.approx(0, abs=1e-6)
    assert found.posterior.item() == pytest.approx(1 / 50, rel=1e-4)


def random_case(shift: float, classes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Samples that scatter so widely around their means that some are nearer to another."""
    generator = torch.Generator().manual_seed(1)
    noise, mu = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (20, classes))
    labels = torch.randint(classes, (20,), generator=generator)
    return mu[labels] + 1.3 * noise + shift, mu + shift, labels


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", ["dense", "chunked"])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_monitors_equal_plain_formulas(shift: float, implementation: Implementation, precision: torch.dtype) -> None:
    """Protects what is watched, with a margin that none of it may know, from any implementation's short cuts."""
    x, mu, labels = random_case(shift)
    features, means = (tensor.to(precision).requires_grad_() for tensor in (x, mu))
    terms = gm_loss(features, means, labels, alpha=0.7, likelihood_weight=0.1, implementation=implementation)
    watched = {name: value for name, value in terms._asdict().items() if name not in GMLossTerms._fields[:3]}
    assert not any(value.requires_grad for value in watched.values())

    distances = (x[:, None] - mu).square().sum(dim=2).sqrt()
    own_distances = distances[torch.arange(20), labels]
    posterior = (-0.5 * distances.square()).softmax(dim=1)[torch.arange(20), labels]
    is_right = distances.argmin(dim=1) == labels
    assert 0 < is_right.sum() < 20
    expected = {
        "own_distances": own_distances,
        "own_distance": own_distances.mean(),
        "mean_distance": torch.pdist(mu).square().mean().sqrt(),
        "feature_radius": (x - mu.mean(dim=0)).norm(dim=1).mean(),
        "posterior": posterior.mean(),
        "accuracy": is_right.double().mean(),
    }
    assert watched.keys() == expected.keys()
    tolerance = 2e-6 if precision is torch.float32 else 1e-12
    for name, value in expected.items():
        torch.testing.assert_close(watched[name].double(), value, rtol=tolerance, atol=tolerance, msg=name)


def test_with_drawn_negatives_each_counts_for_the_classes_that_it_stands_for() -> None:
    """Protects all that is watched from classes that were not compared."""
    x, mu, labels = random_case(0.0, classes=60)
    drawn = draw_negatives(labels, Shard.whole(60), 0.3, torch.Generator().manual_seed(0))
    found = gm_loss(x, mu, labels, alpha=0.7, likelihood_weight=0.1, negatives=drawn)

    half_squares = 0.5 * (x[:, None] - mu[drawn.classes]).square().sum(dim=2)
    is_own = labels[:, None] == drawn.classes
    logits = drawn.log_weights - half_squares
    predicted, nearest = (drawn.classes[values.argmax(dim=1)] for values in (logits, -half_squares))
    assert (predicted != nearest).any()
    assert found.accuracy == (predicted == labels).double().mean() < (nearest == labels).double().mean()
    torch.testing.assert_close(found.posterior, logits.softmax(dim=1)[is_own].mean())
    torch.testing.assert_close(found.own_distances, (2 * half_squares[is_own]).sqrt())
    counts = drawn.log_weights.exp()[:, None]
    center = (counts * mu[drawn.classes]).sum(dim=0) / 60
    spread = (counts * (mu[drawn.classes] - center).square()).sum()
    torch.testing.assert_close(found.mean_distance, (spread * 2 / 59).sqrt())
    torch.testing.assert_close(found.feature_radius, (x - center).norm(dim=1).mean())
