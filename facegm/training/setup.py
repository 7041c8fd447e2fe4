"""All that the training loop is given: what is trained, on what, how, and what is done with it beside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal

from facegm.data.draws import DrawPlan
from facegm.data.residency import Residency
from facegm.data.samples import Samples
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.progress_log import Projection
from facegm.training.task import Network, Task


@dataclass(frozen=True, kw_only=True)
class TrainingSetup(Generic[Network]):
    """One run of the loop, in the terms of its task: faces, or images of classes."""

    title: str
    """What is trained on what, for the first line of the log."""
    task: Task[Network]
    """Built after `torch.manual_seed(plan.seed)`, so that all processes, and those that go on, begin with the same."""
    samples: Samples
    plan: DrawPlan
    """What the order of the samples and their augmentation follow from."""
    residency: Residency | Literal["auto"]
    """Where decoded samples are kept."""
    workers: int
    """Processes that decode, where they are kept nowhere."""
    optimizer: OptimizerConfig
    train: TrainConfig
    configuration: str
    """The resolved configuration, which each checkpoint carries."""
    must_match: Mapping[str, str]
    """What must be equal for a checkpoint to fit, by config key."""
    export: Callable[[Network], Path]
    """Write the trained network; returns the file."""
    validate: Callable[[Network], dict[str, float]] | None
    """Named numbers that say how good a network is, which is left in the mode it was in. The network is called by its
    `forward`: what torch.compile has taken for training would be compiled anew."""
    validate_every: int
    """Epochs between two validations; there is always one at the end."""
    project: Callable[[Network], Projection] | None
    """Embeddings for TensorBoard's projector."""
