"""All that the training loop is given: what is trained, on what, how, and what is done with it beside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

from facegm.data.draws import DrawPlan
from facegm.data.residency import Residency
from facegm.data.samples import Samples
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.log import Projection
from facegm.training.task import Network, Task

PROJECTIONS = 4
"""Times in a run that embeddings are shown."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup(Generic[Network]):
    """One run of the loop, in the terms of its task: faces, or images of classes."""

    title: str
    """What is trained on what, for the first line of the log."""
    task: Task[Network]
    """Built after `torch.manual_seed(plan.seed)`, so that all processes, and those that go on, begin with the same."""
    samples: Samples
    plan: DrawPlan
    """What the order of the samples follows from."""
    residency: Residency | Literal["auto"] = "auto"
    """Where decoded samples are kept."""
    workers: int = 0
    """Processes that decode, where they are kept nowhere."""
    optimizer: OptimizerConfig
    train: TrainConfig
    config: Any
    """The whole configuration, a dataclass; what of it is not `FREE` must be equal for a checkpoint to fit."""
    data: str
    """What the samples are, in words and a digest; must be equal too."""
    export: Callable[[Task[Network], bool], Path]
    """Write the trained task, the last or (True) the best so far by validation; returns the file."""
    validation: Samples | None = None
    """What the task is evaluated on; the number `accuracy` decides which epoch is the best."""
    validate_every: int = 1
    """Epochs between two validations; there is always one at the end."""
    project: Callable[[Task[Network]], Projection] | None = None
    """Embeddings for TensorBoard's projector."""

    def is_validated(self, step: int) -> bool:
        """Whether there is a validation after a step, counted from 1."""
        every = self.validate_every * self.plan.steps_per_epoch
        return self.validation is not None and (step == self.plan.steps or step % every == 0)

    def is_projected(self, step: int) -> bool:
        """Whether embeddings are shown after a step."""
        every = max(1, self.plan.steps // PROJECTIONS)
        return self.project is not None and (step == self.plan.steps or step % every == 0)

    def is_saved(self, step: int) -> bool:
        """Whether there is a checkpoint after a step; always before a validation, which may fail."""
        every = self.train.checkpoint_every
        return step == self.plan.steps or step % every == 0 or self.is_validated(step)

    def is_logged(self, step: int) -> bool:
        """Whether there is a line of the log after a step: wherever something is saved, validated or shown, too."""
        return step % self.train.log_every == 0 or self.is_saved(step) or self.is_projected(step)
