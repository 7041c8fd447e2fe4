"""The stages of training, each timed alone."""

import torch
from torch import Tensor

from facegm.data.batch import Batch
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.random_faces import AnyFaces
from facegm.errors import FacegmError
from facegm.losses.interface import Progress
from facegm.training.bottleneck import StageSeconds
from facegm.training.config import RunConfig
from facegm.training.decode_speed import decode_seconds
from facegm.training.distributed import autocast_dtype
from facegm.training.face_task import FaceTask
from facegm.training.optimization import build_optimizer
from facegm.training.shards import clip_gradient
from facegm.training.stopwatch import median_seconds

DECODE_BATCH = 32
FIRST_BATCH = 8
"""Faces with which the network is tried on a processor, to choose a batch that takes about `BATCH_SECONDS`."""
BATCH_SECONDS = 0.2


def measure_stages(config: RunConfig, faces: AnyFaces, classes: int, device: torch.device) -> StageSeconds:
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


def _measure(config: RunConfig, faces: AnyFaces, classes: int, size: int, device: torch.device) -> StageSeconds:
    plan = DrawPlan(
        labels=faces.labels,
        batch_size=min(DECODE_BATCH, len(faces.labels)),
        epochs=10**9,  # it ends when it has been timed
        seed=config.train.seed,
        slack=config.preprocessing.slack,
        mirror=config.preprocessing.mirror,
        jitter=config.data.jitter,
        balanced=config.data.balanced,
    )
    task = FaceTask(config.model, config.loss, config.preprocessing.crop_size, classes)
    task.to(device).to(memory_format=torch.channels_last).train()  # as in a run
    network = _Network(task, autocast_dtype(config.train.precision, device), device)
    some = faces[next(iter(StepSampler(plan)))]
    if device.type == "cpu":
        trial = _repeated(some, min(FIRST_BATCH, size))
        seconds = median_seconds(network.forward, device, lambda: task.inputs(trial))
        network_size = min(size, max(1, round(len(trial.label) * BATCH_SECONDS / seconds)))
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
        with torch.autocast(self._device.type, dtype=self._precision, enabled=self._precision is not None):
            features: Tensor = self._network(images)
        return features.to(images.dtype)


def _transfer_seconds(batch: Batch, device: torch.device) -> float:
    pinned = Batch(*(part.pin_memory() for part in batch))
    return median_seconds(lambda _: pinned.to(device), device) / len(batch.label)


def _loss_seconds(task: FaceTask, size: int, classes: int, device: torch.device) -> float:
    """Of a batch: forward, and backward to features and class vectors."""
    dim = task.network.embedding.out_features
    features = torch.randn(size, dim, device=device, requires_grad=True)
    labels = torch.randint(classes, (size,), device=device)

    def forget() -> None:
        features.grad = None
        task.loss.zero_grad()

    return median_seconds(
        lambda _: task.loss(features, labels, Progress(0, 1)).total.backward(), device, prepare=forget
    )


def _optimizer_seconds(task: FaceTask, config: RunConfig, device: torch.device) -> float:
    """Of a step, by the gradients that are there; the weights stay as they are."""
    optimizer = build_optimizer(task, config.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def step(_: None) -> None:
        clip_gradient(task, config.optimizer.clip_gradient)
        optimizer.step()

    return median_seconds(step, device)


def _repeated(batch: Batch, size: int) -> Batch:
    """The faces of a batch again and again, until they are so many."""
    number = torch.arange(size) % len(batch.label)
    return Batch(*(part[number] for part in batch))
