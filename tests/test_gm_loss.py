"""The GM loss, by every implementation, against hand-computed values, naive float64 loops and finite differences."""

import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses import engine
from facegm.losses.engine import Implementation
from facegm.losses.gm import Regularizer, gm_logits, gm_loss
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.schedule import Progress

X = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
MU = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
Y = torch.tensor([1, 2])
by_each = pytest.mark.parametrize("by", ["dense", "chunked"])


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of 3 classes (dense: 12), so that small cases have several, and a last one that is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "block_size", lambda _: 3)
        yield


def naive_terms(x: Tensor, mu: Tensor, y: Tensor, alpha: float) -> tuple[float, float, float]:
    """Eq. 19, Eq. 7 and its part of the own classes, one distance at a time."""
    classification, mixture, own = 0.0, 0.0, 0.0
    for feature, label in zip(x.tolist(), y.tolist(), strict=True):
        logits = []
        for k, mean in enumerate(mu.tolist()):
            squared = math.fsum((a - b) ** 2 for a, b in zip(feature, mean, strict=True))
            logits.append(-(1 + alpha * (k == label)) * squared / 2)
            mixture += squared / len(x) / len(mu)
            own += squared / len(x) * (k == label)
        top = max(logits)
        log_sum = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
        classification += (log_sum - logits[label]) / len(x)
    return classification, mixture, own


def plain_total(
    x: Tensor, mu: Tensor, y: Tensor, alpha: float, likelihood_weight: float, regularizer: Regularizer = "mixture"
) -> Tensor:
    """The loss by broadcasting and automatic differentiation."""
    squared = (x[:, None] - mu).square().sum(dim=2)
    is_own = torch.nn.functional.one_hot(y, len(mu)).to(x)
    likelihood = squared.mean() if regularizer == "mixture" else (squared * is_own).sum() / len(x)
    return cross_entropy(-0.5 * (1 + alpha * is_own) * squared, y) + likelihood_weight * likelihood


def random_case(batch: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    mu = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return x, mu, torch.randint(classes, (batch,), generator=generator)


def relative_error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found.double() - expected).norm() / expected.norm())


@by_each
def test_golden_values_and_gradients(by: Implementation) -> None:
    # Worked out by hand in float64 for two samples, three classes, alpha 0.5, lambda 0.1.
    x, mu = X.clone().requires_grad_(), MU.clone().requires_grad_()
    terms = gm_loss(x, mu, Y, alpha=0.5, likelihood_weight=0.1, implementation=by)
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


@by_each
def test_golden_values_without_margin(by: Implementation) -> None:
    x, mu = X.clone().requires_grad_(), MU.clone().requires_grad_()
    terms = gm_loss(x, mu, Y, alpha=0.0, likelihood_weight=0.0, implementation=by)
    terms.total.backward()
    assert terms.total.item() == pytest.approx(1.2395447662, abs=1e-9)
    d_x = [[0.0, -0.1065069789], [-0.8402395316, 0.0532534895]]
    d_mu = [[0.0532534895, -0.2869860422], [-0.0532534895, -0.2130139578], [0.8402395316, 0.5532534895]]
    assert x.grad is not None
    assert mu.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor(d_x, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(mu.grad, torch.tensor(d_mu, dtype=torch.float64), atol=1e-9, rtol=0)


@by_each
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape_equals_a_naive_loop(by: Implementation, data: st.DataObject) -> None:
    # Ragged sizes, one sample, one class, classes without a sample, several samples of a class, features far off.
    batch, classes, dim = (data.draw(st.integers(1, most)) for most in (9, 30, 6))
    x, mu, _ = random_case(batch, classes, dim, seed=data.draw(st.integers(0, 2**30)))
    y = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)))
    alpha, weight = data.draw(st.sampled_from([0.0, 0.01, 1.0])), data.draw(st.sampled_from([0.0, 0.1, 0.49]))
    regularizer: Regularizer = data.draw(st.sampled_from(["mixture", "own"]))
    shift, spread = data.draw(st.sampled_from([0.0, 3.0, 100.0])), data.draw(st.sampled_from([0.01, 1.0, 10.0]))
    x, mu = (shift + spread * x).requires_grad_(), (shift + mu).requires_grad_()

    terms = gm_loss(x, mu, y, alpha=alpha, likelihood_weight=weight, regularizer=regularizer, implementation=by)
    classification, mixture, own = naive_terms(x, mu, y, alpha)
    likelihood = mixture if regularizer == "mixture" else own
    assert terms.classification.item() == pytest.approx(classification, rel=1e-10, abs=1e-10)
    assert terms.likelihood.item() == pytest.approx(likelihood, rel=1e-10)
    assert terms.total.item() == pytest.approx(classification + weight * likelihood, rel=1e-10, abs=1e-10)

    found = torch.autograd.grad(terms.total, (x, mu))
    expected = torch.autograd.grad(plain_total(x, mu, y, alpha, weight, regularizer), (x, mu))
    scale = 1 + x.detach().abs().max().item()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * scale)


@by_each
@pytest.mark.parametrize("regularizer", ["mixture", "own"])
def test_gradcheck(by: Implementation, regularizer: Regularizer) -> None:
    x, mu, y = random_case(5, 9, 3)

    def terms(x: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:  # each by itself, so that each may be used alone
        found = gm_loss(x, mu, y, alpha=0.3, likelihood_weight=0.1, regularizer=regularizer, implementation=by)
        return found.classification, found.likelihood

    assert torch.autograd.gradcheck(terms, (x.requires_grad_(), mu.requires_grad_()))


@by_each
def test_single_precision_survives_a_common_offset(by: Implementation) -> None:
    # Without centring, the products of features shifted by +3 in 512 dimensions cancel catastrophically.
    x, mu, y = random_case(64, 1000, 512)
    x, mu = (0.3 * x + 3).requires_grad_(), (0.1 * mu + 3).requires_grad_()
    exact = plain_total(x, mu, y, 0.01, 0.001)
    exact.backward()
    x_single, mu_single = (tensor.detach().float().requires_grad_() for tensor in (x, mu))
    total = gm_loss(x_single, mu_single, y, alpha=0.01, likelihood_weight=0.001, implementation=by).total
    total.backward()
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert relative_error(x_single.grad, x.grad) < 1e-5
    assert relative_error(mu_single.grad, mu.grad) < 1e-5


@by_each
def test_the_margin_counts_where_the_posterior_is_nearly_one(by: Implementation) -> None:
    # At log odds of -30 single precision rounds the posterior to 1; loss and gradient must still be right.
    mu = torch.eye(20, dtype=torch.float64) * 5.7
    x, y = mu[:6] * 0.9, torch.arange(6)
    exact, _, _ = naive_terms(x, mu, y, alpha=0.5)
    assert exact < 1e-11
    x_single = x.float().requires_grad_()
    terms = gm_loss(x_single, mu.float(), y, alpha=0.5, likelihood_weight=0.0, implementation=by)
    assert terms.classification.item() == pytest.approx(exact, rel=1e-4)
    terms.total.backward()
    x.requires_grad_()
    plain_total(x, mu, y, 0.5, 0.0).backward()
    assert relative_error(x_single.grad, x.grad) < 1e-4


@by_each
def test_nothing_overflows_for_features_far_from_all_means(by: Implementation) -> None:
    x, mu, y = random_case(8, 30, 16)
    x = (1e4 * x).float().requires_grad_()
    terms = gm_loss(x, mu.float(), y, alpha=1.0, likelihood_weight=0.1, implementation=by)
    terms.total.backward()
    assert terms.classification.item() == pytest.approx(naive_terms(x, mu.float(), y, 1.0)[0], rel=1e-5)
    assert x.grad is not None
    assert x.grad.isfinite().all()


@by_each
def test_autocast_and_half_precision_features_do_not_reach_the_products(by: Implementation) -> None:
    x, mu, y = random_case(32, 50, 64)
    half = x.bfloat16()
    expected = gm_loss(half.double(), mu, y, alpha=0.01, likelihood_weight=0.001)
    with torch.autocast("cpu", torch.bfloat16):
        terms = gm_loss(half, mu.float(), y, alpha=0.01, likelihood_weight=0.001, implementation=by)
    assert terms.total.dtype == torch.float32
    assert terms.total.item() == pytest.approx(expected.total.item(), rel=1e-5)


@by_each
def test_autocast_does_not_reach_the_likelihood(by: Implementation) -> None:
    # 3 e_0 is 2 away from e_0 and sqrt(10) from the nine others; the cross term 0.6 is no bfloat16 number.
    x = torch.zeros(4, 10)
    x[:, 0] = 3
    with torch.autocast("cpu", torch.bfloat16):
        terms = gm_loss(x, torch.eye(10), torch.arange(4), alpha=0.1, likelihood_weight=0.1, implementation=by)
    assert terms.likelihood.item() == pytest.approx(9.4, rel=1e-6)


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


def test_the_implementation_follows_from_size_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    features = torch.zeros(256, 8)
    assert type(engine.choose_engine("auto", features, 10_575)).__name__ == "Dense"
    assert type(engine.choose_engine("auto", features, 1_000_000)).__name__ == "Chunked"
    with pytest.raises(ValueError, match=r"implementation: fused, but the device is cpu, not cuda; take auto"):
        engine.choose_engine("fused", features, 10_575)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"labels must be from 0 to 2, found .*{label}"):
        gm_loss(X, MU, torch.tensor([1, label]), alpha=0.0, likelihood_weight=0.0)


def test_a_lambda_that_makes_everything_collapse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be below 0\.5: from there on the minimum .* on one point"):
        gm_loss(X, MU, Y, alpha=0.0, likelihood_weight=0.5)
    gm_loss(X, MU, Y, alpha=0.0, likelihood_weight=0.5, regularizer="own")  # which has no such point
    with pytest.raises(ValueError, match="likelihood_weight: nan, must be a number from 0 on"):
        GMLossConfig(likelihood_weight=math.nan)


def test_a_lambda_that_may_collapse_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"likelihood_weight 0\.3 is above 0\.2"):
        GMLoss(3, 2, GMLossConfig(likelihood_weight=0.3))


def test_logits_rank_classes_by_distance() -> None:
    x, mu, _ = random_case(40, 9, 4)
    distances = torch.cdist(x, mu)
    logits = gm_logits(x, mu)
    assert torch.equal(logits.argmax(dim=1), distances.argmin(dim=1))
    posterior = (-0.5 * distances.square()).softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), posterior)


def test_module_holds_small_means_and_calls_the_function() -> None:
    torch.manual_seed(0)
    loss = GMLoss(5000, 256, GMLossConfig(alpha=0.1, likelihood_weight=0.01, regularizer="own"))
    assert loss.means.std().item() == pytest.approx(math.sqrt(2 / 3 / 256), rel=0.01)
    x, y = torch.randn(8, 256), torch.arange(8)
    expected = gm_loss(x, loss.means, y, alpha=0.1, likelihood_weight=0.01, regularizer="own")
    assert all(map(torch.equal, loss(x, y), expected))


def test_module_warms_alpha_and_lambda_up() -> None:
    config = GMLossConfig(alpha=0.5, likelihood_weight=0.1, warmup_fraction=0.2, alpha_start=0.01, likelihood_start=0.1)
    loss = GMLoss(6, 4, config)
    x, y = torch.randn(8, 4), torch.randint(6, (8,))
    for step, alpha, weight in ((0, 0.005, 0.01), (10, 0.2525, 0.055), (20, 0.5, 0.1), (99, 0.5, 0.1)):
        expected = gm_loss(x, loss.means, y, alpha=alpha, likelihood_weight=weight)
        assert loss(x, y, Progress(step, 100)).total.item() == pytest.approx(expected.total.item(), rel=1e-6)
        assert loss.settings(Progress(step, 100))["alpha"] == pytest.approx(alpha)
