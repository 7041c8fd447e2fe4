"""The optimiser without a run: precision, learning rates, and going on with what was saved elsewhere."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from facegm.data.samples import Batch
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.training import optimizer
from facegm.training.config import OptimizerConfig
from facegm.training.devices import autocast_dtype
from facegm.training.optimizer import build_optimizer, restore_optimizer, set_learning_rate
from facegm.training.row_gradients import LazyAdamW, LazySGD
from facegm.training.task import Task

MOMENTUM, DECAY, FACTOR = 0.8, 0.1, 5.0
CONFIGS = {
    "sgd": OptimizerConfig(learning_rate=0.2, momentum=MOMENTUM, weight_decay=DECAY),
    "adamw": OptimizerConfig(name="adamw", learning_rate=0.02, momentum=MOMENTUM, weight_decay=DECAY),
}


def test_precision_is_bfloat16_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("float32", cpu) is None
    assert autocast_dtype("bfloat16", cpu) is torch.bfloat16
    assert autocast_dtype("float16", cpu) is torch.float16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert autocast_dtype("auto", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert autocast_dtype("auto", cpu) is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert autocast_dtype("auto", cpu) is None


class LinearTask(Task[nn.Linear]):
    def inputs(self, batch: Batch) -> Tensor:
        return batch.images.float()


@pytest.fixture
def task() -> LinearTask:
    torch.manual_seed(0)
    return LinearTask(nn.Linear(3, 2), GMLoss(4, 2, GMLossConfig(means_learning_rate_factor=FACTOR)))


def test_each_group_has_its_learning_rate(task: LinearTask) -> None:
    built = build_optimizer(task, CONFIGS["sgd"])
    set_learning_rate(built, 0.03)
    rates = {parameter: group["lr"] for group in built.param_groups for parameter in group["params"]}
    assert rates[task.loss.means] == pytest.approx(0.15)
    assert [rates[parameter] for parameter in task.network.parameters()] == pytest.approx([0.03, 0.03])


def test_rates_that_lie_on_the_device_are_changed_where_they_are(task: LinearTask) -> None:
    """Protects a captured step, which reads always the same memory: one number a group, since factors differ."""
    weights, means = torch.tensor(1.0), torch.tensor(1.0)
    groups = [{"params": task.network.parameters(), "lr": weights, "factor": 1.0}]
    groups += [{"params": task.loss.parameters(), "lr": means, "factor": FACTOR}]
    set_learning_rate(SGD(groups, foreach=False), 0.03)
    assert [weights.item(), means.item()] == pytest.approx([0.03, 0.15])


def test_captured_groups_do_not_share_their_rate(task: LinearTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "LazyAdamW", lambda groups, **_: groups)
    groups: Any = build_optimizer(task, CONFIGS["adamw"], is_captured=True)
    rates = [group["lr"] for group in groups]
    assert len({rate.data_ptr() for rate in rates}) == len(rates) == 3


def test_momentum_begins_at_zero_in_the_memory_order_of_the_weights(task: LinearTask) -> None:
    task.network.weight.data = task.network.weight.data.T.contiguous().T
    built = build_optimizer(task, CONFIGS["sgd"])
    for parameter in task.parameters():
        momentum = built.state[parameter]["momentum_buffer"]
        assert not momentum.any()
        assert momentum.stride() == parameter.stride()


def by_hand(name: str, weight: Tensor, gradients: list[Tensor], rate: float, decay: float) -> Tensor:
    """A weight after steps by these gradients."""
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        if name == "sgd":
            first = MOMENTUM * first + gradient + decay * weight
            weight = weight - rate * first
        else:
            first = MOMENTUM * first + (1 - MOMENTUM) * gradient
            second = 0.999 * second + 0.001 * gradient**2
            change = first / (1 - MOMENTUM**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            weight = weight * (1 - rate * decay) - rate * change
    return weight


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_was_saved_on_a_cpu_goes_on_fused_and_scaled(
    name: str, task: LinearTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a run that moves to a GPU, in float16 there: torch asserts where its groups are not fused as it is."""
    generator = torch.Generator().manual_seed(0)
    parameters = list(task.parameters())
    gradients = [[torch.randn(p.shape, generator=generator).double() for p in parameters] for _ in range(4)]
    expected = [
        by_hand(name, parameter.detach().double(), [step[k] for step in gradients], rate, decay)
        for k, (parameter, rate, decay) in enumerate(
            zip(parameters, (0.01, 0.01, 0.01 * FACTOR), (DECAY, 0.0, 0.0), strict=True)
        )
    ]

    def take_step(optimizer: Optimizer, number: int, scaler: torch.amp.GradScaler) -> None:
        set_learning_rate(optimizer, 0.01)
        for parameter, gradient in zip(parameters, gradients[number], strict=True):
            parameter.grad = scaler.scale(gradient.to(parameter))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    there = build_optimizer(task, CONFIGS[name])
    for number in range(2):
        take_step(there, number, torch.amp.GradScaler("cpu", enabled=False))
    assert {group["fused"] for group in there.param_groups} == {None}
    kind: Any = {"sgd": LazySGD, "adamw": LazyAdamW}[name]
    monkeypatch.setattr(optimizer, kind.__name__, lambda groups, **settings: kind(groups, **settings | {"fused": True}))
    here = build_optimizer(task, CONFIGS[name])
    monkeypatch.undo()
    restore_optimizer(here, there.state_dict())
    assert {group["fused"] for group in here.param_groups} == {True}
    for number in range(2, 4):
        take_step(here, number, torch.amp.GradScaler("cpu"))
    for parameter, found in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), found, rtol=1e-5, atol=1e-6)


def test_momentum_that_was_not_saved_begins_at_zero_and_the_rest_goes_on(task: LinearTask) -> None:
    """Protects a checkpoint of a run whose first steps all were passed over, or gave a parameter no gradient."""
    saved = build_optimizer(task, CONFIGS["sgd"]).state_dict()
    momentum = torch.randn(2, 3)
    saved["state"] = {0: {"momentum_buffer": momentum}, 1: {"momentum_buffer": None}}
    here = build_optimizer(task, CONFIGS["sgd"])
    restore_optimizer(here, saved)
    found = [here.state[parameter]["momentum_buffer"] for parameter in task.parameters()]
    assert torch.equal(found[0], momentum)
    assert not found[1].any()
    assert not found[2].any()
