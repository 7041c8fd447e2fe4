"""A sanity run: whether network, loss and optimiser can learn one small batch by heart."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress

import torch
from jaxtyping import Bool
from torch import Tensor

from facegm.data.batch import Batch
from facegm.errors import FacegmError
from facegm.losses.interface import Progress
from facegm.training.config import RunConfig
from facegm.training.diagnosis import Observation, diagnose
from facegm.training.distributed import Processes, join_processes
from facegm.training.face_task import FaceTask
from facegm.training.optimization import Optimization
from facegm.training.plain_batch import few_faces, plain_batch
from facegm.training.run import check_loss, open_training_faces

IDENTITIES, FACES_EACH = 8, 8
STEPS, CHECK_EVERY, CHECKS = 200, 5, 3
"""Steps at most; steps between two checks; checks in a row that must be without error."""
WARMUP_FRACTION = 0.05
"""Share of the steps over which the learning rate rises; it is constant from then on."""


def overfit(config: RunConfig) -> Iterator[Observation]:
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
        batch = plain_batch(faces, numbers, config.preprocessing).to(processes.device)
        yield from _learn(_constant(config), batch, [faces.keys[number] for number in numbers], processes)


def _learn(config: RunConfig, batch: Batch, keys: list[str], processes: Processes) -> Iterator[Observation]:
    classes = int(batch.label.max()) + 1
    check_loss(config, classes, processes)
    torch.manual_seed(config.train.seed)
    task = FaceTask(config.model, config.loss, config.preprocessing.crop_size, classes)
    task.to(processes.device).to(memory_format=torch.channels_last)  # as in a run
    optimization = Optimization(task, config.optimizer, config.train, processes)
    history: list[Observation] = []
    wrong: list[str] = []
    for step in range(1, STEPS + 1):
        task.train()
        terms = optimization.backward(batch, Progress(step - 1, STEPS), monitor=False)
        values = {name: float(value) for name, value in terms.items()}
        _check_finite(step, values, is_scaled=optimization.scaler.is_enabled())
        optimization.step()
        if step > 1 and step % CHECK_EVERY:
            continue
        is_wrong = _errors(task, batch, optimization.precision).tolist()
        wrong = list(compress(keys, is_wrong))
        history.append(
            Observation(
                step=step,
                loss=values["loss"],
                classification=values.get("classification", values["loss"]),
                error=len(wrong) / len(keys),
                gradient_norm=values["gradient_norm"],
                learning_rate=optimization.learning_rate,
            )
        )
        yield history[-1]
        if len(history) >= CHECKS and not any(seen.error for seen in history[-CHECKS:]):
            return
    raise FacegmError(diagnose(history, classes, wrong))


def _constant(config: RunConfig) -> RunConfig:
    """The same with a constant learning rate after a short warm-up, in one part, and with the last weights."""
    return replace(
        config,
        optimizer=replace(config.optimizer, schedule="step", milestones=[], warmup_fraction=WARMUP_FRACTION),
        train=replace(config.train, accumulate=1, ema_decay=0.0),
    )


def _check_finite(step: int, values: dict[str, float], *, is_scaled: bool) -> None:
    # Where float16 scales the loss, an infinite gradient is passed over and the scale lowered: that is as it should be.
    watched = ["loss"] if is_scaled else ["loss", "gradient_norm"]
    if not all(math.isfinite(values[name]) for name in watched):
        seen = ", ".join(f"{name.replace('_', ' ')} {values[name]}" for name in watched)
        raise FacegmError(
            f"not finite at step {step} ({seen}): the steps are too large; lower optimizer.learning_rate, "
            "optimizer.clip_gradient or the loss's margin"
        )


@torch.no_grad()
def _errors(task: FaceTask, batch: Batch, precision: torch.dtype | None) -> Bool[Tensor, " batch"]:
    """Which faces the network takes for another identity when it is not training."""
    task.eval()
    images = task.inputs(batch)
    with torch.autocast(images.device.type, dtype=precision, enabled=precision is not None):
        features = task.network(images)
    predicted = task.loss.logits(features.to(images.dtype)).argmax(dim=1)
    return predicted != batch.label
