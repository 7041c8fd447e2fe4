"""The theory of the optimum against tabulated values and numerical descent; the monitors against plain formulas."""

import math

import pytest
import torch

from facegm.losses.geometry import measure_geometry, optimal_distance
from facegm.losses.gm import gm_loss


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

    def closure() -> float:
        optimizer.zero_grad()
        loss = gm_loss(x, mu, labels, alpha=0.3, likelihood_weight=likelihood_weight).total
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    distances, expected = torch.pdist(mu.detach()), optimal_distance(classes, likelihood_weight)
    assert distances.min().item() == pytest.approx(expected, abs=1e-3)
    assert distances.max().item() == pytest.approx(expected, abs=1e-3)
    measured = measure_geometry(x.detach(), mu.detach(), labels)
    assert measured["own_distance"].item() == pytest.approx(0, abs=1e-3)
    assert measured["posterior"].item() == pytest.approx(1 - 2 * likelihood_weight * (classes - 1) / classes, abs=1e-3)


def test_a_collapse_is_measured_as_one() -> None:
    mu = torch.full((50, 6), 0.1) + 1e-9 * torch.randn(50, 6)
    measured = measure_geometry(torch.full((4, 6), 0.1), mu, torch.arange(4))
    assert measured["mean_distance"].item() == pytest.approx(0, abs=1e-3)
    assert measured["feature_radius"].item() == pytest.approx(0, abs=1e-6)
    assert measured["posterior"].item() == pytest.approx(1 / 50, rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_monitors_equal_plain_formulas(shift: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, generator=generator) + shift
    mu = torch.randn(7, 6, generator=generator) + shift
    labels = torch.randint(7, (20,), generator=generator)
    geometry = measure_geometry(x, mu, labels)
    distances = torch.cdist(x, mu)
    torch.testing.assert_close(geometry.pop("own_distances"), distances[torch.arange(20), labels])
    measured = {name: value.item() for name, value in geometry.items()}
    assert measured["own_distance"] == pytest.approx(distances[torch.arange(20), labels].mean().item(), rel=1e-5)
    assert measured["mean_distance"] == pytest.approx(torch.pdist(mu).square().mean().sqrt().item(), rel=1e-5)
    assert measured["feature_radius"] == pytest.approx((x - mu.mean(dim=0)).norm(dim=1).mean().item(), rel=1e-5)
    posterior = (-0.5 * distances.square()).softmax(dim=1)[torch.arange(20), labels]
    assert measured["posterior"] == pytest.approx(posterior.mean().item(), rel=1e-5)
    assert measured["accuracy"] == pytest.approx((distances.argmin(dim=1) == labels).float().mean().item())
