"""Sampled negative classes: what is drawn, what the estimator promises, and what it does not."""

import math

import pytest
import torch
from torch import Tensor

from facegm.losses.gm import Regularizer, gm_loss
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress

DRAWS = 800


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_case(classes: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(6, 8, generator=generator(1), dtype=torch.float64)
    mu = 0.3 * torch.randn(classes, 8, generator=generator(2), dtype=torch.float64)
    return x, mu, torch.tensor([0, 3, 3, 17, 39, 20])


def test_the_batchs_classes_are_always_drawn_and_the_others_by_share() -> None:
    labels = torch.tensor([5, 9_000, 5])
    drawn = draw_negatives(labels, Shard.whole(10_000), 0.1, generator())
    assert {5, 9_000} <= set(drawn.classes.tolist())
    assert torch.equal(drawn.classes, drawn.classes.unique(sorted=True))
    assert len(drawn.classes) == pytest.approx(1_000, abs=4 * math.sqrt(900))
    own = (drawn.classes == 5) | (drawn.classes == 9_000)
    assert torch.equal(drawn.log_weights[own], torch.zeros(2))
    assert drawn.log_weights[~own].unique().item() == pytest.approx(math.log(10))


def test_the_draw_does_not_depend_on_how_the_classes_are_split() -> None:
    labels = torch.tensor([5, 90, 33])
    whole = draw_negatives(labels, Shard.whole(100), 0.2, generator())
    parts = [draw_negatives(labels, shard, 0.2, generator()) for shard in (Shard(0, 33, 100), Shard(33, 100, 100))]
    assert torch.equal(torch.cat([parts[0].classes, parts[1].classes + 33]), whole.classes)
    assert torch.equal(torch.cat([part.log_weights for part in parts]), whole.log_weights)


@pytest.mark.parametrize("regularizer", ["mixture", "own"])
def test_the_sampled_loss_is_the_one_of_the_weighted_classes(regularizer: Regularizer) -> None:
    x, mu, y = random_case()
    x, mu = x.requires_grad_(), mu.requires_grad_()
    drawn = draw_negatives(y, Shard.whole(40), 0.4, generator())
    drawn = drawn._replace(log_weights=drawn.log_weights.double())
    found = gm_loss(x, mu, y, alpha=0.3, likelihood_weight=0.1, regularizer=regularizer, negatives=drawn)

    half_squares = 0.5 * (x[:, None] - mu).square().sum(dim=2)
    weights = torch.full((40,), -torch.inf, dtype=torch.float64).index_copy(0, drawn.classes, drawn.log_weights)
    is_own = torch.nn.functional.one_hot(y, 40).to(x)
    logits = weights - (1 + 0.3 * is_own) * half_squares
    likelihood = 2 * (half_squares.mean() if regularizer == "mixture" else (is_own * half_squares).sum() / len(x))
    expected = torch.nn.functional.cross_entropy(logits, y) + 0.1 * likelihood
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-12)
    pairs = zip(torch.autograd.grad(found.total, (x, mu)), torch.autograd.grad(expected, (x, mu)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_the_sum_is_estimated_without_bias_and_its_logarithm_from_below() -> None:
    x, mu, y = random_case()
    exact = gm_loss(x, mu, y, alpha=0.1, likelihood_weight=0.1)
    draws = [draw_negatives(y, Shard.whole(40), 0.3, generator(seed)) for seed in range(DRAWS)]
    terms = [
        gm_loss(
            x, mu, y, alpha=0.1, likelihood_weight=0.1,
            negatives=drawn._replace(log_weights=drawn.log_weights.double()),
        )
        for drawn in draws
    ]  # fmt: skip
    likelihoods = torch.stack([t.likelihood for t in terms])
    torch.testing.assert_close(likelihoods, exact.likelihood.expand(DRAWS))
    classification = torch.stack([t.classification for t in terms])
    assert classification.mean() < exact.classification
    assert classification.mean().item() == pytest.approx(exact.classification.item(), rel=0.05)
    # Of a single sample, exp(loss) is affine in the sum of exponentials, and so without bias itself.
    one = torch.stack(
        [
            gm_loss(
                x[:1], mu, y[:1], alpha=0.1, likelihood_weight=0.1,
                negatives=drawn._replace(log_weights=drawn.log_weights.double()),
            ).classification.exp()
            for drawn in (draw_negatives(y[:1], Shard.whole(40), 0.3, generator(seed)) for seed in range(DRAWS))
        ]
    )  # fmt: skip
    exact_one = gm_loss(x[:1], mu, y[:1], alpha=0.1, likelihood_weight=0.1).classification.exp()
    assert abs(one.mean() - exact_one) < 4 * one.std() / math.sqrt(DRAWS)


def test_a_run_draws_by_its_seed_and_step() -> None:
    torch.manual_seed(7)
    loss = GMLoss(500, 8, GMLossConfig(negative_share=0.1))
    x, y = torch.randn(6, 8), torch.randint(500, (6,))
    first = [loss(x, y, Progress(step, 9)).classification.item() for step in (0, 1)]
    assert first == [loss(x, y, Progress(step, 9)).classification.item() for step in (0, 1)]
    assert first[0] != first[1]
    exact = gm_loss(x, loss.means, y, alpha=0.01, likelihood_weight=0.001)
    assert all(map(torch.equal, loss(x, y), exact)), "outside a run, all classes count"
