"""Which samples a step trains on, and how each is augmented: a function of seed and step alone.

Every rank draws the whole global batch and takes its part, so that one process and many see the same data, and a
resumed run goes on as if it had never stopped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from torch.utils.data import Sampler

from facegm.errors import FacegmError


class Draws(NamedTuple):
    """The samples of a step and their augmentation."""

    sample: Int64[np.ndarray, " batch"]
    """Number of each sample in the data set."""
    top: Int64[np.ndarray, " batch"]
    left: Int64[np.ndarray, " batch"]
    """Where the crop begins, in pixels of the resized image."""
    mirrored: Bool[np.ndarray, " batch"]
    contrast: Float32[np.ndarray, " batch"]
    """Factor on the deviation of the pixels from the crop's mean."""
    brightness: Float32[np.ndarray, " batch"]
    """Added to all pixels, on the network's scale."""


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """The numbers that all draws of a run follow from."""

    labels: Int64[np.ndarray, " samples"] = field(repr=False)
    """Class of each sample of the data set, 0 to classes - 1; of a face, its identity."""
    batch_size: int
    """Samples in a step, over all processes."""
    epochs: int
    seed: int
    slack: int = 0
    """Pixels by which an image is larger than the crop, in height and width."""
    mirror: bool = False
    """Mirror half of the images."""
    jitter: float = 0.0
    """Largest change of contrast (a factor of 1 ± jitter) and brightness (± jitter on the network's scale)."""
    balanced: bool = False
    """Draw all classes equally often, however many samples each has."""

    def __post_init__(self) -> None:
        if len(self.labels) < self.batch_size:
            raise FacegmError(
                f"{len(self.labels)} images do not fill one batch of {self.batch_size}; "
                "lower train.batch_size or add images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the shuffled samples is left out, others in each epoch."""
        return len(self.labels) // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class StepSampler(Sampler[Draws]):
    """This process's part of each step's draws, from a first step to the last of the run.

    Args:
        plan: the run's numbers.
        first_step: where to begin, counted from 0.
        rank: this process.
        world_size: number of processes; the batch size is a multiple of it.
    """

    def __init__(self, plan: DrawPlan, *, first_step: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if plan.batch_size % world_size:
            raise FacegmError(f"train.batch_size: {plan.batch_size} does not divide among {world_size} processes")
        self._plan, self._first_step, self._rank, self._world_size = plan, first_step, rank, world_size

    def __len__(self) -> int:
        return self._plan.steps - self._first_step

    def __iter__(self) -> Iterator[Draws]:
        plan = self._plan
        mine = slice(
            self._rank * plan.batch_size // self._world_size, (self._rank + 1) * plan.batch_size // self._world_size
        )
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(self._first_step, plan.steps):
            epoch = step // plan.steps_per_epoch
            if epoch != order_epoch:
                order, order_epoch = _order(plan, epoch), epoch
            yield Draws(*(column[mine] for column in _augmented(plan, _batch(plan, order, step), step)))


def samples_of_step(plan: DrawPlan, step: int) -> Int64[np.ndarray, " batch"]:
    """Numbers of the samples that all processes together train on in a step, counted from 0."""
    return _batch(plan, _order(plan, step // plan.steps_per_epoch), step)


def _batch(plan: DrawPlan, order: Int64[np.ndarray, " samples"], step: int) -> Int64[np.ndarray, " batch"]:
    """The samples of a step, from the order of its epoch."""
    return order[step % plan.steps_per_epoch * plan.batch_size :][: plan.batch_size]


def _order(plan: DrawPlan, epoch: int) -> Int64[np.ndarray, " samples"]:
    """The samples of an epoch in the order in which they are trained on."""
    rng = np.random.default_rng([plan.seed, 0, epoch])
    order = rng.permutation(len(plan.labels))
    return _balanced(plan.labels, order, rng) if plan.balanced else order


def _balanced(
    labels: Int64[np.ndarray, " samples"], order: Int64[np.ndarray, " samples"], rng: np.random.Generator
) -> Int64[np.ndarray, " samples"]:
    """As many samples, all classes in every round; of each its samples in their shuffled order, again and again."""
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    rounds = -(-len(labels) // len(classes))
    drawn = np.concatenate([rng.permutation(classes) for _ in range(rounds)])
    turn = np.repeat(np.arange(rounds), len(classes))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.cumsum(counts) - counts
    return np.asarray(by_class[first[drawn] + turn % counts[drawn]][: len(labels)])


def _augmented(plan: DrawPlan, samples: Int64[np.ndarray, " batch"], step: int) -> Draws:
    rng, size = np.random.default_rng([plan.seed, 1, step]), len(samples)
    top, left = rng.integers(0, plan.slack + 1, (2, size))
    mirrored = (rng.random(size) < 0.5) & plan.mirror
    contrast, brightness = rng.uniform(-plan.jitter, plan.jitter, (2, size)).astype(np.float32)
    return Draws(samples, top, left, mirrored, 1 + contrast, brightness)
