"""Which faces a step trains on, and how each is augmented: a function of seed and step alone.

Every rank draws the whole global batch and takes its part, so that one process and many see the same data, and a
resumed run goes on as if it had never stopped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from facegm.data.preprocessing import Preprocessing
from facegm.errors import FacegmError


class Draw(NamedTuple):
    """One face of a batch and its augmentation."""

    face: int
    """Number of the face in the data set."""
    top: int
    left: int
    """Where the crop begins, in pixels of the resized face."""
    mirrored: bool
    contrast: float
    """Factor on the deviation of the pixels from the crop's mean."""
    brightness: float
    """Added to all pixels, on the network's scale."""


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """The numbers that all draws of a run follow from."""

    faces: int
    """Number of faces in the data set."""
    batch_size: int
    """Faces in a step, over all processes."""
    epochs: int
    seed: int
    preprocessing: Preprocessing
    jitter: float = 0.0
    """Largest change of contrast (a factor of 1 ± jitter) and brightness (± jitter on the network's scale)."""

    def __post_init__(self) -> None:
        if self.faces < self.batch_size:
            raise FacegmError(
                f"{self.faces} faces do not fill one batch of {self.batch_size}; "
                "lower train.batch_size or align more photos"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rest of the shuffled faces is left out, others in each epoch."""
        return self.faces // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class StepSampler(Sampler[list[Draw]]):
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

    def __iter__(self) -> Iterator[list[Draw]]:
        plan = self._plan
        mine = slice(
            self._rank * plan.batch_size // self._world_size, (self._rank + 1) * plan.batch_size // self._world_size
        )
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(self._first_step, plan.steps):
            epoch, step_in_epoch = divmod(step, plan.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng([plan.seed, 0, epoch]).permutation(plan.faces), epoch
            batch = order[step_in_epoch * plan.batch_size :][: plan.batch_size]
            yield self._augmented(batch, step)[mine]

    def _augmented(self, batch: np.ndarray, step: int) -> list[Draw]:
        plan, size = self._plan, len(batch)
        rng = np.random.default_rng([plan.seed, 1, step])
        slack = plan.preprocessing.face_size - plan.preprocessing.crop_size
        top, left = rng.integers(0, slack + 1, (2, size))
        mirrored = (rng.random(size) < 0.5) & plan.preprocessing.mirror
        contrast, brightness = rng.uniform(-plan.jitter, plan.jitter, (2, size)).astype(np.float32)
        columns = (batch, top, left, mirrored, 1 + contrast, brightness)
        return [Draw(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
