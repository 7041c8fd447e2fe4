"""Steps by sparse gradients of rows, as losses give that draw their classes: what moves, what stays, what it costs.

As a script under torchrun, this file takes a step of a loss that draws its classes, on the processes there are.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from facegm.data.samples import Batch
from facegm.losses.interface import Loss, LossTerms
from facegm.losses.softmax import SoftmaxConfig, SoftmaxLoss
from facegm.schedule import Progress
from facegm.training import optimizer
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import Trainer
from facegm.training.optimizer import build_optimizer, restore_optimizer, set_learning_rate
from facegm.training.row_gradients import LazyAdamW, LazySGD
from facegm.training.task import Task

Torchrun = Callable[[int, Sequence[str], Path], CompletedProcess[str]]
CLASSES, DIM, STEPS = 9, 2, 6
MOMENTUM, DECAY, RATE = 0.8, 0.1, 0.05
SGD_CONFIG = OptimizerConfig(momentum=MOMENTUM, weight_decay=DECAY, decay_all=True)
CONFIGS = {
    "sgd": SGD_CONFIG,
    "nesterov": replace(SGD_CONFIG, nesterov=True),
    "plain sgd": replace(SGD_CONFIG, momentum=0.0),
    "adamw": replace(SGD_CONFIG, name="adamw"),
}
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


class LinearTask(Task[nn.Linear]):
    def inputs(self, batch: Batch) -> Tensor:
        return batch.images


def new_task() -> LinearTask:
    """With dense gradients for its network, and rows for the loss's class vectors and biases."""
    torch.manual_seed(0)
    task = LinearTask(nn.Linear(3, DIM), SoftmaxLoss(CLASSES, DIM)).double()
    nn.init.normal_(task.loss.get_parameter("bias"))
    return task


def draw(step: int, rows: int = 4) -> tuple[Tensor, list[Tensor]]:
    """Some classes, rising, and a gradient of each of a task's parameters, that of other classes being 0."""
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randperm(CLASSES, generator=generator)[:rows].sort().values
    gradients = [torch.randn(p.shape, generator=generator).double() for p in new_task().parameters()]
    for gradient in gradients[2:]:
        gradient[~torch.isin(torch.arange(CLASSES), drawn)] = 0.0
    return drawn, gradients


def of_rows(gradient: Tensor, drawn: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(drawn[None], gradient[drawn], gradient.shape, check_invariants=True)


def give(task: Task[Any], step: int, rows: int = 4) -> None:
    drawn, gradients = draw(step, rows)
    for parameter, gradient in zip(task.parameters(), gradients, strict=True):
        parameter.grad = of_rows(gradient, drawn) if len(parameter) == CLASSES else gradient


class Row:
    """A row of a parameter as a list of numbers, with its state; steps are those of the whole parameter."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.flatten().tolist()
        self.first, self.second = [0.0] * len(self.values), [0.0] * len(self.values)

    def take_step(self, name: str, gradient: Tensor, step: int) -> None:
        for k, g in enumerate(gradient.flatten().tolist()):
            w = self.values[k]
            if name == "adamw":
                self.first[k] = MOMENTUM * self.first[k] + (1 - MOMENTUM) * g
                self.second[k] = 0.999 * self.second[k] + 0.001 * g * g
                slope = math.sqrt(self.second[k] / (1 - 0.999**step)) + 1e-8
                self.values[k] = w - RATE * DECAY * w - RATE * self.first[k] / (1 - MOMENTUM**step) / slope
                continue
            momentum = 0.0 if name == "plain sgd" else MOMENTUM
            g += DECAY * w
            self.first[k] = momentum * self.first[k] + g
            self.values[k] = w - RATE * (g + momentum * self.first[k] if name == "nesterov" else self.first[k])


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_equal_a_loop_over_the_rows_that_were_drawn(name: str) -> None:
    """A row that is not drawn keeps its values and its momentum, and is not decayed; what is dense moves as ever."""
    task = new_task()
    expected = {key: [Row(row) for row in parameter.detach()] for key, parameter in task.named_parameters()}
    built = build_optimizer(task, CONFIGS[name])
    for step in range(1, STEPS + 1):
        set_learning_rate(built, RATE)
        give(task, step)
        built.step()
        drawn, gradients = draw(step)
        for rows, gradient in zip(expected.values(), gradients, strict=True):
            for number in drawn.tolist() if len(rows) == CLASSES else range(len(rows)):
                rows[number].take_step(name, gradient[number], step)
    for key, parameter in task.named_parameters():
        found = torch.tensor([row.values for row in expected[key]], dtype=torch.float64).view_as(parameter)
        torch.testing.assert_close(parameter.detach(), found, rtol=1e-12, atol=1e-12, msg=key)
        moments = {"momentum_buffer": "first", "exp_avg": "first", "exp_avg_sq": "second"}
        for state in built.state[parameter].keys() & moments.keys():
            found = torch.tensor([getattr(row, moments[state]) for row in expected[key]], dtype=torch.float64)
            torch.testing.assert_close(built.state[parameter][state], found.view_as(parameter), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_with_all_rows_drawn_it_is_torchs_own_step(name: str) -> None:
    task, dense = new_task(), new_task()
    config = CONFIGS[name]
    built = build_optimizer(task, config)
    groups = [{**group, "lr": RATE} for group in dense.parameter_groups(config)]
    torchs: Optimizer
    if config.name == "adamw":
        torchs = AdamW(groups, betas=(MOMENTUM, 0.999))
    else:
        torchs = SGD(groups, momentum=config.momentum, nesterov=config.nesterov)
    for step in range(STEPS):
        set_learning_rate(built, RATE)
        give(task, step, rows=CLASSES)
        for parameter, gradient in zip(dense.parameters(), draw(step, CLASSES)[1], strict=True):
            parameter.grad = gradient
        built.step()
        torchs.step()
    torch.testing.assert_close(task.state_dict(), dense.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(built.state_dict()["state"], torchs.state_dict()["state"], rtol=0, atol=0)


class LargeResults(TorchDispatchMode):
    """Notes the operations that return so many numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers, self.names = numbers, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, Tensor) and not result.is_sparse and result.numel() >= self._numbers:
            self.names.add(func.__name__.split(".")[0])
        return result


@pytest.mark.parametrize("name", CONFIGS)
def test_no_operation_but_the_writing_of_rows_is_of_the_size_of_all_class_vectors(name: str) -> None:
    """Protects what sampling is for, time and memory: all vectors are read and written by rows alone."""
    task = new_task()
    built = build_optimizer(task, CONFIGS[name])
    for step in range(2):  # in the first one AdamW's moments are made
        give(task, step)
        with LargeResults(CLASSES * DIM) as large:
            task.clip_grad_norm_(0.1)
            built.step()
    assert large.names == {"detach", "index_copy_"}


def test_a_step_that_fails_leaves_whole_parameters() -> None:
    def fail() -> float:
        raise KeyboardInterrupt

    task = new_task()
    built = build_optimizer(task, CONFIGS["sgd"])
    groups = [list(group["params"]) for group in built.param_groups]
    before = deepcopy(built.state_dict())
    give(task, 1)
    with pytest.raises(KeyboardInterrupt):
        built.step(fail)
    assert [[id(p) for p in group["params"]] for group in built.param_groups] == [[id(p) for p in g] for g in groups]
    assert len(built.state) == sum(map(len, groups))
    torch.testing.assert_close(built.state_dict(), before, rtol=0, atol=0)


# ---------------------------------------------------------------------------------- clipping, scaling, resuming


def test_clipping_is_by_the_norm_of_dense_and_sparse_gradients_together() -> None:
    task = new_task()
    give(task, 1)
    _, gradients = draw(1)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    for limit in (2 * norm, norm / 4):
        assert task.clip_grad_norm_(limit).item() == pytest.approx(norm, rel=1e-12)
        share = min(1.0, limit / norm)
        for parameter, gradient in zip(task.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.is_sparse == (len(parameter) == CLASSES)
            torch.testing.assert_close(parameter.grad.to_dense(), share * gradient, rtol=1e-6, atol=0)


def test_a_gradient_of_rows_that_is_not_finite_is_seen() -> None:
    task = new_task()
    give(task, 1)
    rows = task.loss.get_parameter("weight").grad
    assert rows is not None
    rows._values()[1, 0] = math.nan
    assert math.isnan(task.clip_grad_norm_(2.0))


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_scaler_passes_over_rows_that_are_infinite(
    name: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused optimisers, as on a GPU, look at the scaler's flag themselves; a CPU has them too."""
    kind: Any = {"sgd": LazySGD, "adamw": LazyAdamW}[name]
    fused = {"fused": is_fused}
    monkeypatch.setattr(optimizer, kind.__name__, lambda groups, **settings: kind(groups, **settings | fused))
    task, unscaled = new_task(), new_task()
    built, reference = build_optimizer(task, CONFIGS[name]), build_optimizer(unscaled, CONFIGS[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))  # makes its scale
    for step in range(3):
        give(task, step)
        for parameter in task.parameters():
            assert parameter.grad is not None
            parameter.grad *= scaler.get_scale()
        if step == 1:
            rows = task.loss.get_parameter("bias").grad
            assert rows is not None
            rows._values()[0] = math.inf
        else:
            give(unscaled, step)
            reference.step()
        scaler.unscale_(built)
        scaler.step(built)
        scaler.update()
    torch.testing.assert_close(task.state_dict(), unscaled.state_dict(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(built.state_dict()["state"], reference.state_dict()["state"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_goes_on_as_it_was_saved(name: str) -> None:
    task, resumed = new_task(), new_task()
    built = build_optimizer(task, CONFIGS[name])
    going_on: Optimizer = build_optimizer(resumed, CONFIGS[name])
    for step in range(4):
        if step == 2:
            resumed.load_state_dict(task.state_dict())
            restore_optimizer(going_on, deepcopy(built.state_dict()))
        for one, of_one in [(task, built), (resumed, going_on)][: 1 if step < 2 else 2]:
            give(one, step)
            of_one.step()
    torch.testing.assert_close(resumed.state_dict(), task.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(going_on.state_dict(), built.state_dict(), rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------- whole steps


class RowsLoss(Loss):
    """Half the squared distance to the own class vector, which gives a gradient of the batch's rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(CLASSES, DIM))

    def forward(self, features: Tensor, labels: Tensor, progress: Progress | None = None) -> LossTerms:
        del progress
        own = embedding(labels, self.vectors, sparse=True)
        return LossTerms((features - own).square().sum(dim=1).mean() / 2, torch.zeros(()))

    def logits(self, features: Tensor) -> Tensor:
        raise AssertionError(f"features of shape {features.shape} are not evaluated")

    classes = CLASSES


def test_rows_of_parts_of_a_step_add_up() -> None:
    """Class 3 is in both parts, class 5 twice in one."""
    torch.manual_seed(3)
    task = LinearTask(nn.Linear(3, DIM), RowsLoss()).double()
    images, labels = torch.randn(6, 3).double(), torch.tensor([3, 5, 5, 0, 3, 8])
    weight, bias, vectors = (parameter.detach().clone().requires_grad_() for parameter in task.parameters())
    distances = torch.stack([images[i] @ weight.T + bias - vectors[label] for i, label in enumerate(labels)])
    (distances.square().sum() / 12).backward()
    gradients = [p.grad for p in (weight, bias, vectors) if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    share = 0.5 * norm  # clipped to half its length
    config = OptimizerConfig(learning_rate=0.25, momentum=0.0, weight_decay=0.0, clip_gradient=float(share))
    trainer = Trainer(task, config, TrainConfig(accumulate=2, precision="float32"), ALONE)
    terms = trainer.step(Batch(images, labels), Progress(0, 2), lambda _: None)
    assert terms["gradient_norm"].item() == pytest.approx(norm.item(), rel=1e-12)
    for parameter, before, gradient in zip(task.parameters(), (weight, bias, vectors), gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), before.detach() - 0.125 * gradient, rtol=1e-6, atol=1e-9)
    rows = task.loss.get_parameter("vectors").grad
    assert rows is not None
    assert rows.is_sparse


# ----------------------------------------------------------------- a loss that draws its classes, on two processes

IDENTITIES, LIMIT, LARGE_RATE = 60, 0.05, 0.5


def test_two_processes_step_and_clip_by_the_rows_that_each_has_drawn(torchrun: Torchrun, tmp_path: Path) -> None:
    """The classes of two parts of a batch, which overlap, are drawn from each process's own."""
    done = torchrun(2, [__file__], tmp_path)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    rows = [of_one["gradients"][name] for of_one in found for name in ("loss.weight", "loss.bias")]
    shared = [gradient for name, gradient in found[0]["gradients"].items() if name.startswith("network")]
    clipped = math.sqrt(sum(float(gradient.square().sum()) for gradient in [*rows, *shared]))
    assert clipped == pytest.approx(LIMIT, rel=1e-4)
    assert found[0]["norm"] == found[1]["norm"] > 2 * LIMIT
    for of_one in found:
        for name, gradient in of_one["gradients"].items():
            before, after = of_one["before"][name], of_one["after"][name]
            torch.testing.assert_close(after, before - LARGE_RATE * gradient, rtol=1e-6, atol=1e-7)
        assert of_one["drawn"].keys() == {"loss.weight", "loss.bias"}
        for name, drawn in of_one["drawn"].items():
            assert 9 < len(drawn) < IDENTITIES // 2  # those of one part, and some more
            others = [k for k in range(IDENTITIES // 2) if k not in drawn]
            assert torch.equal(of_one["after"][name][others], of_one["before"][name][others])


def main() -> None:
    with join_processes() as processes:
        torch.manual_seed(0)
        config = SoftmaxConfig(shard_means=True, negative_share=0.3)
        task = LinearTask(nn.Linear(3, DIM), SoftmaxLoss(IDENTITIES, DIM, config))
        settings = replace(CONFIGS["plain sgd"], learning_rate=LARGE_RATE, weight_decay=0.0, clip_gradient=LIMIT)
        trainer = Trainer(task, settings, TrainConfig(accumulate=2, precision="float32"), processes)
        before = deepcopy(task.state_dict())
        torch.manual_seed(processes.rank)
        batch = Batch(torch.randn(4, 3), torch.randint(IDENTITIES, (4,)))
        norm = trainer.step(batch, Progress(0, 2), lambda _: None)["gradient_norm"].item()
        gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        drawn = {name: g.coalesce().indices()[0].tolist() for name, g in gradients.items() if g.is_sparse}
        state = {"before": before, "after": task.state_dict(), "drawn": drawn, "norm": norm}
        state["gradients"] = {name: gradient.to_dense() for name, gradient in gradients.items()}
        torch.save(state, f"{processes.rank}.pt")


if __name__ == "__main__":
    main()
