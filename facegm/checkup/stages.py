"""The stages of training, each timed alone."""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import torch
from torch import Tensor

from facegm.checkup.bottleneck import StageSeconds
from facegm.data.draws import DrawPlan, StepSampler, load
from facegm.data.samples import Batch
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.schedule import Progress
from facegm.training.devices import autocast, autocast_dtype
from facegm.training.optimizer import build_optimizer

DECODE_BATCH = 32
FIRST_BATCH = 8
"""Faces with which the network is tried on a processor, to choose a batch that takes about `BATCH_SECONDS`."""
BATCH_SECONDS = 0.2
LEAST_BATCH = 2
"""Batch normalisation needs as many."""
SECONDS = 1.0
"""How long it is timed, after a warm-up; longer where that is not enough for `REPEATS` measurements."""
REPEATS = 3


def measure_stages(config: FaceRunConfig, faces: LabelledFaces, classes: int, device: torch.device) -> StageSeconds:
    """Time each stage of training in the configuration's sizes and precision, without torch.compile.

    A GPU is given batches as in a run, a processor smaller ones for the network, which is nearly as fast with them.

    Args:
        config: what would be trained.
        faces: what it would be trained on.
        classes: number of identities.
        device: where the network would be.

    Raises:
        FacegmError: the GPU has no room for a step.
    """
    size = max(1, config.train.batch_size // config.train.accumulate)
    try:
        return _measure(config, faces, classes, size, device)
    except torch.cuda.OutOfMemoryError as error:
        raise FacegmError(
            f"the GPU has no room for {size} faces at once; raise train.accumulate (now {config.train.accumulate})"
        ) from error


def _measure(
    config: FaceRunConfig, faces: LabelledFaces, classes: int, size: int, device: torch.device
) -> StageSeconds:
    plan = DrawPlan(
        labels=faces.labels,
        batch_size=min(DECODE_BATCH, len(faces.labels)),
        epochs=10**9,  # it ends when it has been timed
        seed=config.train.seed,
        balanced=config.data.balanced,
    )
    task = FaceTask(config.model, config.loss, config.preprocessing, classes)
    task.to(device).to(memory_format=torch.channels_last).train()  # as in a run
    network = _Network(task, autocast_dtype(config.train.precision, device), device)
    some = faces[next(iter(StepSampler(plan, faces)))]
    if device.type == "cpu":
        trial = _repeated(some, min(FIRST_BATCH, size))
        seconds = median_seconds(network.forward, device, lambda: task.inputs(trial))
        wanted = round(len(trial.labels) * BATCH_SECONDS / seconds)
        network_size = min(size, max(LEAST_BATCH, wanted))
    else:
        network_size = size
    batch = _repeated(some, network_size).to(device)
    images = task.inputs(batch)

    one_core, decode = decode_seconds(faces, plan, config.data.workers)
    forward = median_seconds(network.forward, device, lambda: images)
    backward = median_seconds(
        lambda features: features.backward(features.detach()), device, lambda: network.forward(images)
    )
    return StageSeconds(
        decode_one_core=one_core,
        decode=decode,
        transfer=_transfer_seconds(_repeated(some, size), device) if device.type == "cuda" else None,
        augmentation=median_seconds(lambda _: task.inputs(batch), device) / network_size,
        forward=forward / network_size,
        backward=backward / network_size,
        loss=_loss_seconds(task, size, classes, device) / size,
        optimizer=_optimizer_seconds(task, config, device) / config.train.batch_size,
    )


class _Network:
    """The network of a task in its precision; each forward pass begins without gradients, as a step does."""

    def __init__(self, task: FaceTask, precision: torch.dtype | None, device: torch.device) -> None:
        self._network, self._precision, self._device = task.network, precision, device

    def forward(self, images: Tensor) -> Tensor:
        self._network.zero_grad()
        with autocast(self._device, self._precision):
            features: Tensor = self._network(images)
        return features.to(images.dtype)


def _transfer_seconds(batch: Batch, device: torch.device) -> float:
    pinned = batch.map(Tensor.pin_memory)
    return median_seconds(lambda _: pinned.to(device), device) / len(batch.labels)


def _loss_seconds(task: FaceTask, size: int, classes: int, device: torch.device) -> float:
    """Of a batch: forward, and backward to features and class vectors."""
    dim = task.network.embedding_dim
    features = torch.randn(size, dim, device=device, requires_grad=True)
    labels = torch.randint(classes, (size,), device=device)

    def forget() -> None:
        features.grad = None
        task.loss.zero_grad()

    return median_seconds(
        lambda _: task.loss(features, labels, Progress(0, 1)).total.backward(), device, prepare=forget
    )


def _optimizer_seconds(task: FaceTask, config: FaceRunConfig, device: torch.device) -> float:
    """Of a step, by the gradients that are there; the weights stay as they are."""
    optimizer = build_optimizer(task, config.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def step(_: None) -> None:
        task.clip_grad_norm_(config.optimizer.clip_gradient)
        optimizer.step()

    return median_seconds(step, device)


def _repeated(batch: Batch, size: int) -> Batch:
    """The faces of a batch again and again, until they are so many."""
    number = torch.arange(size) % len(batch.labels)
    return batch.map(lambda part: part[number])


def decode_seconds(faces: LabelledFaces, plan: DrawPlan, workers: int) -> tuple[float, float]:
    """Time to read and decode a face: in this process on one core, and by so many worker processes together."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    draws = iter(StepSampler(plan, faces))
    one_core = median_seconds(lambda _: faces[next(draws)], torch.device("cpu")) / plan.batch_size
    cv2.setNumThreads(threads)
    if workers == 0:
        return one_core, one_core
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: to be measured
        batches = iter(load(faces, StepSampler(plan, faces), workers=workers))
    for _ in range(2 * workers):  # so many are prepared while nobody waits
        next(batches)
    start, count = time.perf_counter(), 0
    while count < REPEATS or time.perf_counter() < start + SECONDS:
        next(batches)
        count += 1
    return one_core, (time.perf_counter() - start) / (count * plan.batch_size)


def median_seconds(
    work: Callable[[Any], object], device: torch.device, prepare: Callable[[], Any] = lambda: None
) -> float:
    """Median time of a piece of work over about `SECONDS`, after one for warm-up; what prepares it is not counted."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) <= REPEATS or time.perf_counter() < end:
        prepared = prepare()
        _wait(device)
        start = time.perf_counter()
        work(prepared)
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
