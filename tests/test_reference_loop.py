"""The arithmetic of training against a plain loop in double precision that shares nothing with it, in 96 variants.

As a script under torchrun, this file trains a quarter of them on the processes there are.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import mkdtemp
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear, one_hot, prelu

from facegm.data.draws import DrawPlan
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import train
from facegm.training.run_folder import read_metrics
from facegm.training.setup import TrainingSetup
from facegm.training.task import Task

Torchrun = Callable[[int, Sequence[str], Path], CompletedProcess[str]]
SAMPLES, CLASSES, SIDE, DIM = 30, 5, 6, 4
BATCH, EPOCHS, STEPS, SEED = 12, 4, 8, 3
"""Two full batches of 30 samples an epoch; six samples are left out."""
MILESTONES, LIMIT, DECAY, MEANS_DECAY, FACTOR, AVERAGE, WARMUP = [0.5, 0.8], 0.65, 0.02, 0.05, 3.0, 0.8, 0.35
RATES = {"sgd": 0.1, "nesterov": 0.1, "adamw": 0.03}
LOGGED = [5, 8]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a run is asked for."""

    optimizer: Literal["sgd", "nesterov", "adamw"]
    schedule: Literal["step", "cosine"]
    accumulate: int
    clips: bool
    averages: bool
    warms_up: bool

    def __str__(self) -> str:
        switches = {"clip": self.clips, "average": self.averages, "warmup": self.warms_up}
        asked = [name for name, is_on in switches.items() if is_on]
        return "-".join([self.optimizer, self.schedule, f"in{self.accumulate}", *asked])


OPTIMIZERS: tuple[Literal["sgd", "nesterov", "adamw"], ...] = ("sgd", "nesterov", "adamw")
SCHEDULES: tuple[Literal["step", "cosine"], ...] = ("step", "cosine")
VARIANTS = [
    Variant(optimizer=name, schedule=schedule, accumulate=parts, clips=clips, averages=averages, warms_up=warms_up)
    for name, schedule, parts, (clips, averages, warms_up) in itertools.product(
        OPTIMIZERS, SCHEDULES, (1, 3), itertools.product((False, True), repeat=3)
    )
]


OF_TWO = [
    v
    for v in VARIANTS
    if v.clips ^ v.averages == (v.schedule == "cosine") and v.clips ^ v.warms_up == (v.accumulate == 3)
]
"""A quarter of them, in which any two settings still meet in every way."""


class Outcome(NamedTuple):
    """What a run ends with, by the names of the task's parameters."""

    last: dict[str, Tensor]
    exported: dict[str, Tensor]
    """The average, where one is kept."""
    lines: dict[str, list[float]]
    """Numbers of the log after the steps `LOGGED`."""


# ------------------------------------------------------------------------------------------------ the plain loop


@cache
def plain_loop(variant: Variant) -> Outcome:
    """Train on whole batches in one process, whatever `variant.accumulate` says."""
    images, labels = (torch.from_numpy(array) for array in data())
    w = {name: tensor.detach().clone().requires_grad_() for name, tensor in new_task().named_parameters()}
    decayed, others = ["network.0.weight", "network.3.weight"], ["network.0.bias", "network.1.weight", "network.3.bias"]
    names_of_groups = ((decayed, DECAY), (others, 0.0), (["loss.means"], MEANS_DECAY))
    groups = [{"params": [w[name] for name in names], "weight_decay": decay} for names, decay in names_of_groups]
    optimizer: torch.optim.Optimizer
    if variant.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    else:
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=variant.optimizer == "nesterov")
    average: dict[str, Tensor] = {}
    rates: list[float] = []
    losses: list[float] = []
    norms: list[float] = []
    for step in range(STEPS):
        share = step / STEPS
        fall = 0.1 ** sum(share >= m for m in MILESTONES)
        rate = RATES[variant.optimizer] * (
            fall if variant.schedule == "step" else 0.5 + 0.5 * math.cos(math.pi * share)
        )
        rate *= 0.01 + 0.99 * share / WARMUP if variant.warms_up and share < WARMUP else 1
        for group, factor in zip(optimizer.param_groups, (1.0, 1.0, FACTOR), strict=True):
            group["lr"] = rate * factor
        order = np.random.default_rng([SEED, 0, step // 2]).permutation(SAMPLES)
        numbers = order[:BATCH] if step % 2 == 0 else order[BATCH : 2 * BATCH]
        shift = torch.from_numpy(np.random.default_rng([SEED, 1, step]).uniform(-1, 1, BATCH))
        x = images[numbers].permute(0, 3, 1, 2) / 255 + shift[:, None, None, None]
        x = prelu(conv2d(x, w["network.0.weight"], w["network.0.bias"]), w["network.1.weight"]).flatten(1)
        x = linear(x, w["network.3.weight"], w["network.3.bias"])
        risen = min(1, share / 0.25)
        squared_distances = (x[:, None] - w["loss.means"][None]).square().sum(dim=2)
        margin = 1 + 0.3 * (0.01 + 0.99 * risen) * one_hot(labels[numbers], CLASSES)
        loss = cross_entropy(-margin * squared_distances / 2, labels[numbers])
        loss = loss + 0.1 * (0.1 + 0.9 * risen) * squared_distances.mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(w.values(), LIMIT if variant.clips else math.inf)
        optimizer.step()
        for name, tensor in w.items():
            now = tensor.detach().clone()
            average[name] = AVERAGE * average[name] + (1 - AVERAGE) * now if step else now
        rates.append(rate)
        losses.append(loss.item())
        norms.append(norm.item())
    assert not variant.clips or min(norms) < LIMIT < max(norms), "clipped in all steps or in none"
    since = list(zip([0, *LOGGED[:-1]], LOGGED, strict=True))
    lines = {
        "learning_rate": [rates[last - 1] for last in LOGGED],
        "loss": [float(np.mean(losses[first:last])) for first, last in since],
        "gradient_norm": [float(np.mean(norms[first:last])) for first, last in since],
    }
    last = {name: tensor.detach() for name, tensor in w.items()}
    return Outcome(last, average if variant.averages else last, lines)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Grey images [SAMPLES, SIDE, SIDE, 1], 0 to 255, and their classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SAMPLES, SIDE, SIDE, 1), np.uint8), rng.integers(0, CLASSES, SAMPLES)


# ------------------------------------------------------------------------------------------------ facegm's loop


class Shift(NamedTuple):
    """Draws of the samples: what is added to an image."""

    amount: Any


class ShiftedImages(Samples):
    def __init__(self) -> None:
        self._images, self.labels = data()
        self.keys = [f"image {number}" for number in range(SAMPLES)]

    image_bytes, can_be_kept, is_in_memory = SIDE**2, False, True

    def keep_decoded(self, device: torch.device) -> None:
        raise AssertionError(f"they are in memory, and not to be kept on {device}")

    def draw(self, numbers: np.ndarray, rng: np.random.Generator | None) -> Shift:
        return Shift(np.zeros(len(numbers)) if rng is None else rng.uniform(-1, 1, len(numbers)))

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        images, labels = self._images[drawn.numbers], self.labels[drawn.numbers]
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), Shift(torch.from_numpy(drawn.draws.amount)))


class ShiftedTask(Task[nn.Sequential]):
    def inputs(self, batch: Batch) -> Tensor:
        shift: Tensor = batch.draws.amount[:, None, None, None]
        return batch.images.permute(0, 3, 1, 2).double() / 255 + shift


def new_task() -> ShiftedTask:
    torch.manual_seed(1)
    features = (SIDE - 2) ** 2 * 3
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.PReLU(3), nn.Flatten(), nn.Linear(features, DIM))
    config = GMLossConfig(
        alpha=0.3,
        likelihood_weight=0.1,
        warmup_fraction=0.25,
        means_learning_rate_factor=FACTOR,
        means_weight_decay=MEANS_DECAY,
    )
    return ShiftedTask(network, GMLoss(CLASSES, DIM, config)).double()


def trained(variant: Variant, processes: Processes, run: Path) -> Outcome:
    """Train in a run folder."""
    run.mkdir(exist_ok=True)
    exported: dict[str, Tensor] = {}

    def export(task: Task[nn.Sequential], is_best: bool) -> Path:
        exported.update(task.state_dict())
        return run

    samples = ShiftedImages()
    setup = TrainingSetup(
        title=str(variant),
        task=new_task(),
        samples=samples,
        plan=DrawPlan(labels=samples.labels, batch_size=BATCH, epochs=EPOCHS, seed=SEED),
        optimizer=OptimizerConfig(
            name="adamw" if variant.optimizer == "adamw" else "sgd",
            nesterov=variant.optimizer == "nesterov",
            learning_rate=RATES[variant.optimizer],
            weight_decay=DECAY,
            schedule=variant.schedule,
            milestones=MILESTONES,
            warmup_fraction=WARMUP if variant.warms_up else 0.0,
            clip_gradient=LIMIT if variant.clips else math.inf,
        ),
        train=TrainConfig(
            epochs=EPOCHS,
            batch_size=BATCH,
            accumulate=variant.accumulate,
            precision="float32",  # no autocast; all is in double precision
            ema_decay=AVERAGE if variant.averages else 0.0,
            log_every=5,
        ),
        config=variant,
        data="shifted images",
        export=export,
    )
    train(setup, run, processes)
    lines = read_metrics(run)
    assert not processes.is_main or [line["step"] for line in lines] == LOGGED
    logged = {name: [line[name] for line in lines] for name in ("learning_rate", "loss", "gradient_norm")}
    return Outcome(setup.task.state_dict(), exported, logged)


@contextmanager
def float64() -> Iterator[None]:
    """New tensors are in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------------ the comparison


@pytest.fixture(scope="module")
def of_two_processes(torchrun: Torchrun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcomes of the variants on two processes, by name."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(2, [__file__, "outcomes.pt"], folder)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, Any] = torch.load(folder / "outcomes.pt", weights_only=True)
    return outcomes


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_one_process_trains_as_a_plain_loop_does(variant: Variant, tmp_path: Path) -> None:
    with float64():
        found = trained(variant, Processes(rank=0, world_size=1, device=torch.device("cpu")), tmp_path)
        assert_same(found, plain_loop(replace(variant, accumulate=1)))


@pytest.mark.parametrize("variant", OF_TWO, ids=str)
def test_two_processes_train_as_a_plain_loop_does(variant: Variant, of_two_processes: dict[str, Any]) -> None:
    with float64():
        assert_same(Outcome(*of_two_processes[str(variant)]), plain_loop(replace(variant, accumulate=1)))


def assert_same(found: Outcome, expected: Outcome) -> None:
    torch.testing.assert_close(found.last, expected.last, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.exported, expected.exported, rtol=0, atol=1e-9)
    for name, values in expected.lines.items():
        assert found.lines[name] == pytest.approx(values, abs=1e-9), name


def main() -> None:
    with float64(), join_processes() as processes:
        outcomes = {str(variant): tuple(trained(variant, processes, Path(mkdtemp(dir=".")))) for variant in OF_TWO}
        if processes.is_main:
            torch.save(outcomes, sys.argv[1])


if __name__ == "__main__":
    main()
