"""A task beside its steps: evaluation, the average of its weights, what is frozen and what is decayed.

As a script under torchrun, this file evaluates, and takes a step, on the processes there are.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, one_hot, prelu

from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError
from facegm.faces.task import FaceTask
from facegm.losses.center import CenterLoss, CenterLossConfig
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.models.face_network import FaceModelConfig
from facegm.schedule import Progress
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import Trainer
from facegm.training.task import Task, WeightAverage

Torchrun = Callable[[int, Sequence[str], Path], CompletedProcess[str]]
SIDE, DIM, CLASSES, BATCH = 6, 4, 8, 12
COUNTS = (23, 5)
"""Samples of an evaluation by 3 at a time: neither divides among three processes, and of 5 the last one has none."""


class Images(Samples):
    """Grey images of random pixels and classes."""

    def __init__(self, count: int, classes: int = CLASSES) -> None:
        rng = np.random.default_rng(count)
        self.images = torch.from_numpy(rng.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8))
        self.labels = rng.integers(0, classes, count)
        self.keys = [f"image {number}" for number in range(count)]

    image_bytes, can_be_kept, is_in_memory = SIDE**2, False, True

    def keep_decoded(self, device: torch.device) -> None:
        raise AssertionError(f"they are in memory, and not to be kept on {device}")

    def draw(self, numbers: np.ndarray, rng: np.random.Generator | None) -> tuple[()]:
        assert rng is None, f"an evaluation of {numbers} is without chance"
        return ()

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        return Batch(self.images[drawn.numbers], torch.from_numpy(self.labels[drawn.numbers]))

    @property
    def batch(self) -> Batch:
        return Batch(self.images, torch.from_numpy(self.labels))


class ImageTask(Task[nn.Sequential]):
    def inputs(self, batch: Batch) -> Tensor:
        return batch.images.permute(0, 3, 1, 2).float() / 255 - 0.5


class OfCenters(ImageTask):
    """Judged by the centers of its loss."""

    def judge(self, samples: Samples, batches: Iterable[tuple[DrawnSamples, Batch]]) -> dict[str, float]:
        del samples, batches
        return {"mean": self.loss.get_buffer("centers").mean().item()}


def new_task(classes: int = CLASSES) -> ImageTask:
    """With running statistics that are not those of a new network, and class vectors that lie apart."""
    torch.manual_seed(1)
    features = (SIDE - 2) ** 2 * 3
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.PReLU(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(features, DIM)
    )
    task = ImageTask(network, GMLoss(classes, DIM, GMLossConfig(alpha=0.5, likelihood_weight=0.1)))
    state = task.state_dict()
    state["network.1.running_mean"].uniform_(-0.3, 0.3)
    state["network.1.running_var"].uniform_(0.1, 0.4)
    state["loss.means"].mul_(4)
    return task


def naive(state: dict[str, Tensor], samples: Images) -> dict[str, float]:
    """The evaluation of a task's weights, a sample after the other, in double precision and without its code."""
    w = {name: tensor.double() for name, tensor in state.items()}
    is_first, is_among_five, cross_entropies = [], [], []
    for image, label in zip(samples.images, samples.labels.tolist(), strict=True):
        x = conv2d(image.double().view(1, 1, SIDE, SIDE) / 255 - 0.5, w["network.0.weight"], w["network.0.bias"])
        mean, variance, weight, bias = (
            w[f"network.1.{name}"].view(-1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
        feature = prelu(x, w["network.2.weight"]).flatten() @ w["network.5.weight"].T + w["network.5.bias"]
        logits = [-0.5 * float((feature - mean).square().sum()) for mean in w["loss.means"]]
        better = sum(logit > logits[label] for logit in logits)
        is_first.append(better == 0)
        is_among_five.append(better < 5)
        cross_entropies.append(float(torch.tensor(logits).logsumexp(0)) - logits[label])
    return {
        "accuracy": float(np.mean(is_first)),
        "top5": float(np.mean(is_among_five)),
        "loss": float(np.mean(cross_entropies)),
    }


# ------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_equals_a_naive_one() -> None:
    task = new_task().train()
    for count in COUNTS:
        found = task.evaluate(Images(count), batch_size=3)
        assert found == pytest.approx(naive(task.state_dict(), Images(count)), rel=1e-5)
    assert task.training
    assert task.network.training


@pytest.fixture(scope="module")
def of_three_processes(torchrun: Torchrun, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `main` has found in each process."""
    folder = tmp_path_factory.mktemp("three")
    done = torchrun(3, [__file__, "."], folder)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_three_processes_evaluate_what_the_first_one_exports(of_three_processes: list[dict[str, Any]]) -> None:
    """Each has normalised batches of its own, and so has other running statistics."""
    expected = [naive(new_task().state_dict(), Images(count)) for count in COUNTS]
    for found in of_three_processes:
        assert [pytest.approx(numbers, rel=1e-5) for numbers in expected] == found["evaluations"]


def test_evaluation_leaves_each_process_its_part_of_what_is_split(of_three_processes: list[dict[str, Any]]) -> None:
    """Running statistics are the first one's everywhere; centers of split classes are not."""
    assert [found["centers"] for found in of_three_processes] == [{"mean": 0}, {"mean": 1}, {"mean": 2}]


def test_evaluation_in_bfloat16_is_near() -> None:
    task, samples = new_task(), Images(200)
    with torch.autocast("cpu", torch.bfloat16):
        found = task.evaluate(samples, batch_size=64)
    expected = naive(task.state_dict(), samples)
    assert found == pytest.approx(expected, abs=0.03)
    assert found["loss"] != pytest.approx(expected["loss"], rel=1e-6)


def test_there_is_no_top5_of_five_classes() -> None:
    found = new_task(classes=5).evaluate(Images(10, classes=5), batch_size=4)
    assert found.keys() == {"accuracy", "loss"}


class Damaged(Images):
    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        raise FacegmError(f"image {drawn.numbers[0]}: damaged")


@pytest.mark.parametrize("is_training", [True, False])
def test_the_mode_is_restored_also_after_a_failure(is_training: bool) -> None:
    task = new_task().train(is_training)
    task.network[1].eval()  # as where its statistics are to stay
    modes = {name: module.training for name, module in task.named_modules()}
    task.evaluate(Images(4), batch_size=4)
    assert {name: module.training for name, module in task.named_modules()} == modes
    with pytest.raises(FacegmError, match="image 0: damaged"):
        task.evaluate(Damaged(4), batch_size=4)
    assert {name: module.training for name, module in task.named_modules()} == modes


# ---------------------------------------------------------------------------------------- average of the weights


def test_the_average_begins_with_the_first_step_and_has_class_vectors_and_statistics() -> None:
    task = new_task()
    average = WeightAverage(task, decay=0.75)
    parameters, states = dict(task.named_parameters()), []
    for step in range(4):
        with torch.no_grad():
            for tensor in task.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(step))
        average.update(task)
        states.append({name: tensor.clone() for name, tensor in task.state_dict().items()})
    for name, found in average.task.state_dict().items():
        first, second, third, last = (state[name].double() for state in states)
        if name in parameters:
            last = 0.25 * last + 0.75 * (0.25 * third + 0.75 * (0.25 * second + 0.75 * first))
        torch.testing.assert_close(found.double(), last, rtol=1e-5, atol=1e-6, msg=name)
    assert not any(parameter.requires_grad for parameter in average.task.parameters())
    assert all(parameter.requires_grad for parameter in parameters.values())


def test_an_average_goes_on_as_it_was_saved() -> None:
    task = new_task()
    average, restored = WeightAverage(task, decay=0.5), WeightAverage(new_task(), decay=0.5)
    for _ in range(2):
        for parameter in task.parameters():
            parameter.data.normal_()
        average.update(task)
        restored.load_state_dict(deepcopy(average.state_dict()))
    for one in (average, restored):
        one.update(new_task())
    torch.testing.assert_close(restored.state_dict(), average.state_dict(), rtol=0, atol=0)


def test_what_is_evaluated_is_the_average_of_network_and_class_vectors_together() -> None:
    samples, alone = Images(40), Processes(rank=0, world_size=1, device=torch.device("cpu"))
    config = OptimizerConfig(learning_rate=1.0, clip_gradient=2.0)
    trainer = Trainer(new_task().train(), config, TrainConfig(ema_decay=0.5, precision="float32"), alone)
    states = []
    for step in range(3):
        trainer.step(samples.batch, Progress(step, 3), lambda _: None)
        states.append({name: tensor.double() for name, tensor in trainer.task.state_dict().items()})
    first, second, last = states
    averaged = {name: 0.25 * first[name] + 0.25 * second[name] + 0.5 * last[name] for name in last}
    averaged |= {name: last[name] for name in last if name not in dict(trainer.task.named_parameters())}
    found = trainer.trained.evaluate(samples, batch_size=40)
    assert found == pytest.approx(naive(averaged, samples), rel=1e-4)
    mixed = naive(averaged | {"loss.means": last["loss.means"]}, samples)
    assert mixed["loss"] != pytest.approx(found["loss"], rel=1e-3)
    assert naive(last, samples)["loss"] != pytest.approx(found["loss"], rel=1e-3)


# ------------------------------------------------------------------------------------------- freezing and decay


def test_what_is_frozen_is_not_changed_by_momentum_or_decay() -> None:
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    task = new_task()
    task.freeze(["network.0", "loss"])
    before = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    config = OptimizerConfig(weight_decay=0.5, decay_all=True)
    trainer = Trainer(task, config, TrainConfig(precision="float32"), alone)
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 5
    for step in range(2):
        trainer.step(Images(12).batch, Progress(step, 2), lambda _: None)
    same = {name for name, parameter in task.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {"network.0.weight", "network.0.bias", "loss.means"}


def test_what_a_network_has_frozen_itself_stays_so() -> None:
    task = new_task()
    task.network[5].weight.requires_grad_(False)
    task.freeze(["loss"])
    frozen = {name for name, parameter in task.named_parameters() if not parameter.requires_grad}
    assert frozen == {"network.5.weight", "loss.means"}


def class_vectors_alone(*, shard_means: bool) -> ImageTask:
    torch.manual_seed(2)
    config = GMLossConfig(alpha=0.5, likelihood_weight=0.0, warmup_fraction=0.0, shard_means=shard_means)
    task = ImageTask(nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, DIM)), GMLoss(CLASSES, DIM, config))
    task.freeze(["network"])
    return task


def test_processes_train_their_class_vectors_where_the_network_is_frozen(
    of_three_processes: list[dict[str, Any]],
) -> None:
    """There is then no gradient to be averaged."""
    task, samples = class_vectors_alone(shard_means=False).double(), Images(BATCH)
    features = task.network(samples.images.view(BATCH, -1).double() / 255 - 0.5).detach()
    means = task.loss.get_parameter("means").detach().requires_grad_()
    labels = torch.from_numpy(samples.labels)
    halved = (features[:, None] - means).square().sum(dim=2) / 2
    cross_entropy(-halved * (1 + 0.5 * one_hot(labels, CLASSES)), labels).backward()
    assert means.grad is not None
    expected = (means - 0.1 * means.grad).detach()
    found = torch.cat([torch.tensor(of_one["means"]) for of_one in of_three_processes])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    norms = [of_one["norm"] for of_one in of_three_processes]
    assert norms == pytest.approx([means.grad.norm().item()] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("beginnings", "message"),
    [
        (["network", "trunk"], "train.freeze: trunk: no such part; there are network.0.weight, network.0.bias, "),
        (["network", "loss"], "train.freeze: nothing is left to train"),
    ],
)
def test_freezing_nothing_or_all_is_refused(beginnings: list[str], message: str) -> None:
    with pytest.raises(FacegmError, match=message):
        new_task().freeze(beginnings)


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", ["gm", "softmax", "center"])
def test_decay_is_for_weights_alone_unless_all_is_asked_for(name: str, decay_all: bool) -> None:
    """The GM loss's means have a decay and a rate of their own in both cases; centers have none, nor a gradient."""
    gm = GMLossConfig(means_learning_rate_factor=5.0, means_weight_decay=0.25)
    loss = LossConfig(name=name, gm=gm)  # type: ignore[arg-type]
    preprocessing = Preprocessing(face_size=56, crop_size=48)
    task = FaceTask(FaceModelConfig(width=0.1, embedding_dim=16), loss, preprocessing, classes=3)
    decays, factors = {}, {}
    groups = task.parameter_groups(OptimizerConfig(weight_decay=0.5, decay_all=decay_all))
    for group in groups:
        for parameter in group["params"]:
            decays[parameter], factors[parameter] = group["weight_decay"], group["factor"]
    assert sum(len(group["params"]) for group in groups) == len(decays)
    assert set(decays) == set(task.parameters())
    for module in task.modules():
        for key, parameter in module.named_parameters(recurse=False):
            is_matrix = key == "weight" and not isinstance(module, nn.PReLU)
            assert decays[parameter] == (0.25 if key == "means" else 0.5 if is_matrix or decay_all else 0.0), key
            assert factors[parameter] == (5.0 if key == "means" else 1.0)


def main() -> None:
    with join_processes() as processes:
        task = new_task()
        for buffer in task.buffers():
            buffer += processes.rank
        evaluations = [task.evaluate(Images(count), batch_size=3) for count in COUNTS]
        of_centers = OfCenters(nn.Sequential(), CenterLoss(CLASSES, DIM, CenterLossConfig(shard_means=True)))
        of_centers.loss.get_buffer("centers").fill_(processes.rank)
        centers = of_centers.evaluate(Images(3), batch_size=3)
        task = class_vectors_alone(shard_means=True)
        config = OptimizerConfig(learning_rate=0.1, clip_gradient=math.inf)
        trainer = Trainer(task, config, TrainConfig(precision="float32"), processes)
        part = list(Images(BATCH).batch.parts(processes.world_size))[processes.rank]
        norm = trainer.step(part, Progress(0, 2), lambda _: None)["gradient_norm"].item()
        found = {"evaluations": evaluations, "centers": centers, "norm": norm}
        found |= {"means": task.loss.get_parameter("means").tolist()}
        Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
