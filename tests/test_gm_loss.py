"""The GM loss against hand-computed values, naive float64 loops and finite differences."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from facegm.losses.gm import GMLoss, gm_logits, gm_loss, mean_squared_distance

X = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
MU = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
Y = torch.tensor([1, 2])


def naive_terms(x: Tensor, mu: Tensor, y: Tensor, alpha: float) -> tuple[float, float]:
    """Eq. 19 and Eq. 7, one distance at a time."""
    classification, likelihood = 0.0, 0.0
    for feature, label in zip(x.tolist(), y.tolist(), strict=True):
        logits = []
        for k, mean in enumerate(mu.tolist()):
            squared = math.fsum((a - b) ** 2 for a, b in zip(feature, mean, strict=True))
            logits.append(-(1 + alpha * (k == label)) * squared / 2)
            likelihood += squared / len(x) / len(mu)
        top = max(logits)
        log_sum = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
        classification += (log_sum - logits[label]) / len(x)
    return classification, likelihood


def random_case(batch: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    mu = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return x, mu, torch.randint(classes, (batch,), generator=generator)


def test_golden_values_and_gradients() -> None:
    # Worked out by hand in float64 for two samples, three classes, alpha 0.5, lambda 0.1.
    x, mu = X.clone().requires_grad_(), MU.clone().requires_grad_()
    terms = gm_loss(x, mu, Y, alpha=0.5, likelihood_weight=0.1)
    terms.total.backward()
    assert terms.likelihood.item() == pytest.approx(11 / 3, abs=1e-9)
    assert terms.classification.item() == pytest.approx(1.8543982705, abs=1e-9)
    assert terms.total.item() == pytest.approx(2.2210649372, abs=1e-9)
    d_x = [[0.0, 0.1021888306], [-1.4928303073, -0.3174440835]]
    d_mu = [[0.0311445027, -0.3302323228], [-0.0242998279, -0.2753664973], [1.4859856325, 0.8208540730]]
    assert x.grad is not None
    assert mu.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor(d_x, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(mu.grad, torch.tensor(d_mu, dtype=torch.float64), atol=1e-9, rtol=0)


def test_golden_values_without_margin() -> None:
    x = X.clone().requires_grad_()
    terms = gm_loss(x, MU, Y, alpha=0.0, likelihood_weight=0.0)
    terms.total.backward()
    assert terms.total.item() == pytest.approx(1.2395447662, abs=1e-9)
    assert x.grad is not None
    d_x = torch.tensor([[0.0, -0.1065069789], [-0.8402395316, 0.0532534895]], dtype=torch.float64)
    torch.testing.assert_close(x.grad, d_x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(("batch", "classes", "dim"), [(1, 2, 1), (7, 5, 3), (16, 33, 8)])
def test_equals_a_naive_loop(batch: int, classes: int, dim: int, alpha: float) -> None:
    x, mu, y = random_case(batch, classes, dim)
    terms = gm_loss(x, mu, y, alpha=alpha, likelihood_weight=0.1)
    classification, likelihood = naive_terms(x, mu, y, alpha)
    assert terms.classification.item() == pytest.approx(classification, rel=1e-12)
    assert terms.likelihood.item() == pytest.approx(likelihood, rel=1e-12)
    assert terms.total.item() == pytest.approx(classification + 0.1 * likelihood, rel=1e-12)


def test_gradcheck() -> None:
    x, mu, y = random_case(5, 4, 3)

    def loss(x: Tensor, mu: Tensor) -> Tensor:
        return gm_loss(x, mu, y, alpha=0.3, likelihood_weight=0.1).total

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), mu.requires_grad_()))


def test_single_precision_survives_a_common_offset() -> None:
    # Without centring, the products of features shifted by +3 in 512 dimensions cancel catastrophically.
    x, mu, y = random_case(64, 1000, 512)
    x, mu = 0.3 * x + 3, 0.1 * mu + 3
    exact = gm_loss(x, mu, y, alpha=0.01, likelihood_weight=0.001)
    single = gm_loss(x.float(), mu.float(), y, alpha=0.01, likelihood_weight=0.001)
    assert single.total.item() == pytest.approx(exact.total.item(), rel=1e-5)


def test_autocast_and_half_precision_features_do_not_reach_the_products() -> None:
    x, mu, y = random_case(32, 50, 64)
    half = x.bfloat16()
    expected = gm_loss(half.double(), mu, y, alpha=0.01, likelihood_weight=0.001)
    with torch.autocast("cpu", torch.bfloat16):
        terms = gm_loss(half, mu.float(), y, alpha=0.01, likelihood_weight=0.001)
    assert terms.total.dtype == torch.float32
    assert terms.total.item() == pytest.approx(expected.total.item(), rel=1e-5)


def test_matmul_precision_is_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        gm_loss(X, MU, Y, alpha=0.0, likelihood_weight=0.0)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has one setting"
)
def test_works_where_the_process_chose_tf32_by_the_newer_setting() -> None:
    # torch refuses to mix its two ways to allow TF32; an application may have used either.
    code = (
        "import torch; from facegm.losses.gm import gm_loss; torch.backends.cuda.matmul.fp32_precision = 'tf32';"
        "x = torch.ones(2, 3); gm_loss(x, torch.eye(3), torch.tensor([0, 1]), alpha=0.1, likelihood_weight=0.1);"
        "print(torch.backends.cuda.matmul.fp32_precision)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "tf32"


def test_logits_rank_classes_by_distance() -> None:
    x, mu, _ = random_case(40, 9, 4)
    distances = torch.cdist(x, mu)
    logits = gm_logits(x, mu)
    assert torch.equal(logits.argmax(dim=1), distances.argmin(dim=1))
    posterior = (-0.5 * distances.square()).softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), posterior)


def test_mean_squared_distance_equals_all_pairs() -> None:
    x, mu, _ = random_case(12, 7, 5)
    torch.testing.assert_close(mean_squared_distance(x, mu), torch.cdist(x, mu).square().mean())


def test_module_holds_small_means_and_calls_the_function() -> None:
    torch.manual_seed(0)
    loss = GMLoss(classes=1000, dim=256)
    assert loss.means.std().item() == pytest.approx(math.sqrt(2 / 3 / 256), rel=0.01)
    x, y = torch.randn(8, 256), torch.arange(8)
    assert torch.equal(loss(x, y, 0.1, 0.01).total, gm_loss(x, loss.means, y, alpha=0.1, likelihood_weight=0.01).total)
