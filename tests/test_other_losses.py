"""The losses that the GM loss is compared with, against float64 formulas written another way."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from facegm.losses.angular import arcface_loss, cosface_loss
from facegm.losses.center import CenterLoss, CenterLossConfig, center_loss, move_centers
from facegm.losses.config import LossConfig, LossName, build_loss
from facegm.losses.gm_module import GMLossConfig
from facegm.losses.interface import Loss
from facegm.losses.l_softmax import LSoftmaxConfig, LSoftmaxLoss, l_softmax_loss
from facegm.losses.rce import RCELoss, rce_loss
from facegm.losses.softmax import softmax_loss
from facegm.schedule import Progress

NAMES: tuple[LossName, ...] = ("gm", "softmax", "center", "l_softmax", "rce", "cosface", "arcface")


def random_case(batch: int = 12, classes: int = 7, dim: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (batch, classes))
    b = torch.randn(classes, generator=generator, dtype=torch.float64)
    return x, w, b, torch.randint(classes, (batch,), generator=generator)


def cross_entropy_of(logit: Callable[[Tensor, int, bool], float], x: Tensor, y: Tensor, classes: int) -> float:
    """Mean over samples of log sum exp minus the own logit, one logit at a time."""
    total = 0.0
    for feature, label in zip(x, y.tolist(), strict=True):
        logits = [logit(feature, k, k == label) for k in range(classes)]
        total += math.log(math.fsum(math.exp(value) for value in logits)) - logits[label]
    return total / len(x)


def angle(a: Tensor, b: Tensor) -> float:
    """By the arc tangent of the half angle, which is exact at 0 and pi, where the arc cosine is not."""
    a, b = a / a.norm(), b / b.norm()
    return 2 * math.atan2((a - b).norm().item(), (a + b).norm().item())


def at_angle(degrees_of_pi: float, length: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    """One feature at an angle to its class's vector, beside an unrelated class."""
    theta = degrees_of_pi * math.pi
    x = length * torch.tensor([[math.cos(theta), math.sin(theta), 0.0]], dtype=torch.float64)
    w = torch.tensor([[2.0, 0.0, 0.0], [0.3, -0.4, 1.0]], dtype=torch.float64)
    return x, w, torch.tensor([0])


def test_softmax() -> None:
    x, w, b, y = random_case()
    expected = cross_entropy_of(lambda f, k, _: (f @ w[k] + b[k]).item(), x, y, 7)
    assert softmax_loss(x, w, b, y).total.item() == pytest.approx(expected, rel=1e-12)


def test_rce_of_a_published_example() -> None:
    # Scores 2, 0 and -1 of one sample of class 0: minus half the sum of the others' log posteriors is 2.6698.
    x, w, b = torch.ones(1, 1), torch.zeros(3, 1), torch.tensor([2.0, 0.0, -1.0])
    assert rce_loss(x, w, b, torch.tensor([0])).total.item() == pytest.approx(2.6698, abs=5e-5)


def test_rce_by_a_loop_and_its_prediction() -> None:
    x, w, b, y = random_case()
    expected = 0.0
    for feature, label in zip(x, y.tolist(), strict=True):
        scores = (w @ feature + b).tolist()
        log_sum = math.log(math.fsum(math.exp(score) for score in scores))
        expected -= math.fsum(scores[k] - log_sum for k in range(7) if k != label) / 6 / len(x)
    assert rce_loss(x, w, b, y).total.item() == pytest.approx(expected, rel=1e-12)
    loss = RCELoss(7, 5)
    x_single = x.float()
    lowest = (x_single @ loss.weight.T + loss.bias).argmin(dim=1)
    assert torch.equal(loss.logits(x_single).argmax(dim=1), lowest)
    with pytest.raises(ValueError, match="needs at least 2"):
        RCELoss(1, 5)


def test_center_loss_and_its_gradient() -> None:
    x, w, b, y = random_case()
    centers = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    terms = center_loss(x, w, b, centers, y, center_weight=0.3)
    classification = cross_entropy_of(lambda f, k, _: (f @ w[k] + b[k]).item(), x.detach(), y, 7)
    pulls = [((f - centers[k]) ** 2).sum().item() / 2 for f, k in zip(x.detach(), y.tolist(), strict=True)]
    assert terms.center.item() == pytest.approx(sum(pulls) / len(x), rel=1e-12)
    assert terms.total.item() == pytest.approx(classification + 0.3 * sum(pulls) / len(x), rel=1e-12)
    (gradient,) = torch.autograd.grad(terms.center, x)
    torch.testing.assert_close(gradient, (x.detach() - centers[y]) / len(x))


def test_centers_move_by_their_own_rule() -> None:
    x, _, _, y = random_case()
    y = y.clamp(max=5)  # the last class has no sample, and its center stays
    centers = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = centers.clone()
    for j in range(7):
        mine = x[y == j]
        expected[j] -= 0.5 * (centers[j] - mine).sum(dim=0) / (1 + len(mine))
    last = centers[6].clone()
    move_centers(centers, x, y, 0.5)
    torch.testing.assert_close(centers, expected)
    assert torch.equal(centers[6], last)


def test_center_loss_moves_its_centers_in_training_alone() -> None:
    loss = CenterLoss(4, 3, CenterLossConfig(center_rate=0.25))
    x, y = torch.randn(6, 3), torch.tensor([0, 0, 1, 2, 2, 2])
    loss.eval()(x, y)
    with torch.no_grad():
        loss.train()(x, y)
    assert not loss.centers.any()
    loss(x.requires_grad_(), y)
    expected = torch.zeros(4, 3)
    move_centers(expected, x.detach(), y, 0.25)
    torch.testing.assert_close(loss.centers, expected)
    assert "centers" in loss.state_dict()
    assert "centers" not in dict(loss.named_parameters())


@pytest.mark.parametrize("margin", [2, 3, 4])
@pytest.mark.parametrize("cosine_weight", [0.0, 5.0])
def test_l_softmax_by_the_arc_cosine(margin: int, cosine_weight: float) -> None:
    x, w, _, y = random_case(batch=60)

    def logit(feature: Tensor, k: int, is_own: bool) -> float:
        length, theta = (feature.norm() * w[k].norm()).item(), angle(feature, w[k])
        branch = min(int(theta * margin / math.pi), margin - 1)
        psi = (-1) ** branch * math.cos(margin * theta) - 2 * branch
        steeper = (cosine_weight * math.cos(theta) + psi) / (1 + cosine_weight)
        return float(length * (steeper if is_own else math.cos(theta)))

    found = l_softmax_loss(x, w, y, margin=margin, cosine_weight=cosine_weight)
    assert found.total.item() == pytest.approx(cross_entropy_of(logit, x, y, 7), rel=1e-8)


@pytest.mark.parametrize("margin", [2, 3, 4])
def test_l_softmax_at_the_bounds_of_its_branches(margin: int) -> None:
    # psi is continuous at theta = j pi / m, where it is 1 - 2j, and falls all the way from 1 to 1 - 2m.
    for j in range(margin + 1):
        for offset in (-1e-9, 0.0, 1e-9):
            share = min(max(j / margin + offset, 0.0), 1.0)
            x, w, y = at_angle(share)
            length = (x.norm() * w[0].norm()).item()
            logits = [length * (1 - 2 * j), (x[0] @ w[1]).item()]
            expected = math.log(sum(math.exp(value) for value in logits)) - logits[0]
            found = l_softmax_loss(x, w, y, margin=margin, cosine_weight=0.0).total.item()
            assert found == pytest.approx(expected, rel=1e-7)


def test_l_softmax_is_finite_and_has_a_gradient_for_opposite_and_equal_directions() -> None:
    for share in (0.0, 1.0):
        x, w, y = at_angle(share)
        x.requires_grad_()
        l_softmax_loss(x, w, y, margin=4, cosine_weight=0.0).total.backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_l_softmax_anneals_by_the_published_schedule() -> None:
    config = LSoftmaxConfig(base=1000.0, gamma=2.5e-5, power=35.0, minimum=1.0)
    assert config.cosine_weight(Progress(0, 20_000)) == 1000.0
    assert config.cosine_weight(Progress(4_000, 20_000)) == pytest.approx(1000 * 1.1**-35)
    assert config.cosine_weight(Progress(19_999, 20_000)) == 1.0
    assert config.cosine_weight(None) == 1.0
    assert LSoftmaxLoss(3, 2, config).settings(Progress(0, 10)) == {"cosine_weight": 1000.0}


def test_cosface() -> None:
    x, w, _, y = random_case()
    expected = cross_entropy_of(lambda f, k, own: 8 * (math.cos(angle(f, w[k])) - 0.35 * own), x, y, 7)
    assert cosface_loss(x, w, y, scale=8.0, margin=0.35).total.item() == pytest.approx(expected, rel=1e-10)


def test_arcface_on_both_sides_of_pi() -> None:
    x, w, _, y = random_case(batch=60)
    x[:20] = 0.1 * x[:20] - w[y[:20]]  # nearly opposite to their own class
    passed = 0

    def logit(feature: Tensor, k: int, is_own: bool) -> float:
        nonlocal passed
        theta = angle(feature, w[k])
        if is_own and theta + 0.5 >= math.pi:
            passed += 1
            return 8 * (math.cos(theta) - 0.5 * math.sin(0.5))
        return 8 * math.cos(theta + 0.5 * is_own)

    expected = cross_entropy_of(logit, x, y, 7)
    assert passed > 0
    assert arcface_loss(x, w, y, scale=8.0, margin=0.5).total.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_arcface_has_a_gradient_where_the_sine_is_zero(share: float) -> None:
    x, w, y = at_angle(share)
    x.requires_grad_()
    arcface_loss(x, w, y, scale=64.0, margin=0.5).total.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, w, b, y: rce_loss(x, w, b, y).total,
        lambda x, w, _, y: l_softmax_loss(x, w, y, margin=4, cosine_weight=2.0).total,
    ],
    ids=["rce", "l_softmax"],
)
def test_gradcheck(loss: Callable[..., Tensor]) -> None:
    x, w, b, y = random_case(batch=5, classes=4, dim=3)
    inputs = [tensor.requires_grad_() for tensor in (x, w, b)]
    assert torch.autograd.gradcheck(lambda *some: loss(*some, y), inputs)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_learns_behind_one_interface(name: LossName) -> None:
    torch.manual_seed(0)
    config = replace(LossConfig(), name=name)
    loss: Loss = build_loss(config, classes=5, dim=8)
    points, labels = torch.randn(5, 8).repeat(4, 1), torch.arange(5).repeat(4)
    network = torch.nn.Linear(8, 8)
    groups = [{"params": network.parameters(), "factor": 1.0}, *loss.parameter_groups(weight_decay=0.0)]
    parameters = [p for group in loss.parameter_groups(weight_decay=0.1) for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in loss.parameters()}
    optimizer = torch.optim.Adam([{k: v for k, v in group.items() if k != "factor"} for group in groups], lr=0.02)
    for step in range(150):
        terms = loss(network(points), labels, Progress(step, 150))
        assert terms._fields[0] == "total"
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert loss(network(points), labels).accuracy.item() == 1.0
    assert torch.equal(loss.logits(network(points)).argmax(dim=1), labels)


PREDICTIONS: dict[LossName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "gm": lambda x, w, _: torch.stack([(w - feature).norm(dim=1).argmin() for feature in x]),
    "softmax": lambda x, w, b: (x @ w.T + b).argmax(dim=1),
    "center": lambda x, w, b: (x @ w.T + b).argmax(dim=1),
    "l_softmax": lambda x, w, _: (x @ w.T).argmax(dim=1),
    "rce": lambda x, w, b: (x @ w.T + b).argmin(dim=1),
    "cosface": lambda x, w, _: torch.stack([angles_to(w, feature).argmin() for feature in x]),
    "arcface": lambda x, w, _: torch.stack([angles_to(w, feature).argmin() for feature in x]),
}


def angles_to(vectors: Tensor, feature: Tensor) -> Tensor:
    return torch.tensor([angle(vector, feature) for vector in vectors])


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_counts_predictions_without_margin(name: LossName) -> None:
    """Protects the number that every run logs: of samples between two classes, whose own a margin would push away."""
    x, w, b, y = random_case(batch=80)
    x += 0.7 * w[y]
    config = replace(LossConfig(), name=name, gm=GMLossConfig(alpha=0.7), l_softmax=LSoftmaxConfig(margin=4, base=0.0))
    loss = build_loss(config, classes=7, dim=5)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.copy_(w if parameter.ndim > 1 else b)
    right = (PREDICTIONS[name](x, w, b) == y).double().mean()
    assert 0 < right < 1
    for seen in (x.float(), x.float().requires_grad_()):
        accuracy = loss(seen, y, Progress(99, 100)).accuracy
        assert accuracy.item() == pytest.approx(right.item(), rel=1e-6)
        assert not accuracy.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_computes_in_float32_under_autocast(name: LossName) -> None:
    torch.manual_seed(0)
    loss = build_loss(replace(LossConfig(), name=name), classes=6, dim=16)
    x, y = torch.randn(9, 16).bfloat16(), torch.randint(6, (9,))
    expected = loss.eval()(x.float(), y).total
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(x, y).total
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
