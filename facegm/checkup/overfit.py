"""A sanity run: whether network, loss and optimiser can learn one small batch by heart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from facegm.data.samples import Batch
from facegm.errors import FacegmError
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import open_training_faces
from facegm.faces.samples import few_faces, plain_batch
from facegm.faces.task import FaceTask
from facegm.models.face_base import FaceNetwork
from facegm.schedule import Progress
from facegm.training.devices import autocast
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import Trainer
from facegm.training.run import check_loss
from facegm.training.task import evaluating

IDENTITIES, FACES_EACH = 8, 8
STEPS, CHECK_EVERY, CHECKS = 200, 5, 3
"""Steps at most; steps between two checks; checks in a row that must be without error."""
WARMUP_FRACTION = 0.05
"""Share of the steps over which the learning rate rises; it is constant from then on."""
COLLAPSED = 0.01
"""How near a loss is to that of no knowledge, as a share of it, when features and class vectors have collapsed."""
UNMOVED = 1e-4
"""Smallest change of a loss, as a share of it, that counts as movement."""
FEW = 0.1
"""Share of the faces that may be wrong for other reasons than the training."""


class Observation(NamedTuple):
    """What a check has seen."""

    step: int
    """Counted from 1."""
    loss: float
    classification: float
    """The classification term of the loss; the loss itself where it has no parts."""
    error: float
    """Share of the faces that the network in evaluation mode takes for another identity."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


def overfit(config: FaceRunConfig) -> Iterator[Observation]:
    """Train a configuration on one batch of its store until that is learnt by heart, and tell of each check.

    The batch holds `FACES_EACH` faces of each of `IDENTITIES` identities, or as many as there are, in the middle crop
    and otherwise as they are. The loss knows these identities alone. The iterator ends when `CHECKS` checks in a row
    were without error.

    Raises:
        FacegmError: the store is unusable, the loss or its gradient is not finite, or the batch is not learnt after
            `STEPS` steps; the message says what was seen, and what may help.
    """
    faces = open_training_faces(config)
    numbers = few_faces(faces.labels, identities=IDENTITIES, each=FACES_EACH)
    with join_processes() as processes:
        if processes.world_size > 1:
            raise FacegmError("one process learns one batch; start facegm overfit without torchrun")
        batch = plain_batch(faces, numbers).to(processes.device)
        yield from _learn(_constant(config), batch, [faces.keys[number] for number in numbers], processes)


def diagnose(history: Sequence[Observation], classes: int, wrong: Sequence[str]) -> str:
    """Say what a run without success has shown, and what may help.

    Args:
        history: all checks, in order.
        classes: identities in the batch.
        wrong: names of the faces that are wrong at the last check.
    """
    first, last, third = history[0], history[-1], max(1, len(history) // 3)
    begun, ended = (median(seen.loss for seen in part) for part in (history[:third], history[-third:]))
    late = [seen.loss for seen in history[len(history) // 2 :]]
    seen_last = f"after {last.step} steps the loss is {last.loss:.4g} and {last.error:.0%} of the faces are wrong"
    no_knowledge, shrunk = math.log(classes), last.gradient_norm < first.gradient_norm / 2
    if abs(last.classification - no_knowledge) < COLLAPSED * no_knowledge and shrunk:
        return (
            f"{seen_last}: it is stuck at log({classes}) = {no_knowledge:.4g}, as if nothing were known, and the "
            f"gradient has shrunk from {first.gradient_norm:.2g} to {last.gradient_norm:.2g}. Features and class "
            "vectors have collapsed into one point; lower loss.gm.likelihood_weight (or what your loss adds to the "
            "classification), lengthen its warm-up (loss.gm.warmup_fraction), or lower optimizer.learning_rate"
        )
    if max(late) - min(late) <= UNMOVED * abs(last.loss):
        return f"{seen_last}: the loss does not move; raise optimizer.learning_rate (now {last.learning_rate:.2g})"
    if last.error <= FEW:
        return (
            f"{seen_last}, all others are learnt. Look at {', '.join(wrong[:3])}: the same picture may stand under two "
            "identities; `facegm inspect STORE` shows duplicates"
        )
    if ended > begun:
        return (
            f"{seen_last}: the loss rises, from {begun:.4g} to {ended:.4g}; lower optimizer.learning_rate (now "
            f"{last.learning_rate:.2g}) or optimizer.clip_gradient"
        )
    return (
        f"{seen_last}: the loss falls, from {begun:.4g} to {ended:.4g}, but slowly; raise optimizer.learning_rate (now "
        f"{last.learning_rate:.2g}), or expect to need many epochs (train.epochs); a large weight beside the "
        "classification, such as loss.gm.likelihood_weight, slows it too"
    )


def _learn(config: FaceRunConfig, batch: Batch, keys: list[str], processes: Processes) -> Iterator[Observation]:
    classes = int(batch.labels.max()) + 1
    check_loss(config.loss, classes, config.model.embedding_dim, processes)
    torch.manual_seed(config.train.seed)
    task = FaceTask(config.model, config.loss, config.preprocessing, classes)
    task.to(processes.device).to(memory_format=torch.channels_last)  # as in a run
    trainer = Trainer(task, config.optimizer, config.train, processes)
    history: list[Observation] = []
    wrong: list[str] = []
    for step in range(1, STEPS + 1):
        progress = Progress(step - 1, STEPS)
        task.train()
        values = {name: float(t) for name, t in trainer.step(batch, progress, lambda _: None).items() if not t.ndim}
        _check_finite(step, values)
        if step > 1 and step % CHECK_EVERY:
            continue
        is_wrong = _errors(trainer, batch).tolist()
        wrong = list(compress(keys, is_wrong))
        history.append(
            Observation(
                step=step,
                loss=values["loss"],
                classification=values.get("classification", values["loss"]),
                error=len(wrong) / len(keys),
                gradient_norm=values["gradient_norm"],
                learning_rate=config.optimizer.rate(progress),
            )
        )
        yield history[-1]
        if len(history) >= CHECKS and not any(seen.error for seen in history[-CHECKS:]):
            return
    raise FacegmError(diagnose(history, classes, wrong))


def _constant(config: FaceRunConfig) -> FaceRunConfig:
    """The same with a constant learning rate after a short warm-up, in one part, and with the last weights."""
    return replace(
        config,
        optimizer=replace(config.optimizer, schedule="step", milestones=[], warmup_fraction=WARMUP_FRACTION),
        train=replace(config.train, accumulate=1, ema_decay=0.0, capture=False),
    )


def _check_finite(step: int, values: dict[str, float]) -> None:
    watched = ["loss", "gradient_norm"]
    if not all(math.isfinite(values[name]) for name in watched):
        seen = ", ".join(f"{name.replace('_', ' ')} {values[name]}" for name in watched)
        raise FacegmError(
            f"not finite at step {step} ({seen}): the steps are too large; lower optimizer.learning_rate, "
            "optimizer.clip_gradient or the loss's margin"
        )


@torch.no_grad()
def _errors(trainer: Trainer[FaceNetwork], batch: Batch) -> Bool[Tensor, " batch"]:
    """Which faces the network takes for another identity when it is not training."""
    task = trainer.task
    with evaluating(task):
        images = task.inputs(batch)
        with autocast(images.device, trainer.dtype):
            features = task.network(images)
        return task.loss.logits(features.to(images.dtype)).argmax(dim=1) != batch.labels
