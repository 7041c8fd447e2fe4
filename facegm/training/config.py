"""The configuration that all runs share: one dataclass a section, each field's docstring being its help.

Fields marked `FREE` may change when a run goes on.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from facegm.identity import FREE
from facegm.schedule import Progress, cosine_decay, linear_warmup, step_decay
from facegm.training.compilation import Compilation

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Refuse a value of a field.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"{name}: {value}, must be {rule}")


def to_yaml(config: Any) -> str:
    """A resolved configuration, with absolute paths, so that it holds wherever it is read."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value.resolve()) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and how its learning rate falls."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: float = 0.1
    """Highest learning rate; AdamW wants about a hundredth of SGD's."""
    momentum: float = 0.9
    """Momentum; of AdamW the first beta."""
    nesterov: bool = False
    """Nesterov's momentum, for SGD."""
    weight_decay: float = 0.0005
    """Weight decay of convolution and linear weights; the GM loss's means have one of their own."""
    decay_all: bool = False
    """Whether biases, PReLU slopes and scales of normalisation layers are decayed too."""
    warmup_fraction: float = 0.0
    """Share of the run over which the learning rate rises linearly from a hundredth."""
    schedule: Literal["step", "cosine"] = "step"
    """Fall by steps at the milestones, or along half a cosine to 0 at the end."""
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.8])
    """Shares of the run at which the step schedule lowers the learning rate."""
    decay: float = 0.1
    """What the step schedule multiplies it by at each of them."""
    clip_gradient: float = 2.0
    """Largest L2 norm of the gradient, network and means together; .inf for no clipping. A network without
    normalisation layers needs one: single steep batches have thrown runs at learning rate 0.1 off for good."""

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "at least 0 and below 1")
        require(0 < self.decay <= 1, "decay", self.decay, "above 0 and at most 1")
        require(self.clip_gradient > 0, "clip_gradient", self.clip_gradient, "above 0")
        wanted = not self.nesterov or (self.name == "sgd" and self.momentum > 0)
        require(wanted, "nesterov", self.nesterov, "false without SGD and momentum")
        ordered = sorted(self.milestones) == self.milestones and all(0 < share < 1 for share in self.milestones)
        require(ordered, "milestones", self.milestones, "rising shares of the run between 0 and 1")

    def rate(self, progress: Progress) -> float:
        """The learning rate at a point of the run."""
        share = progress.share
        decay = cosine_decay(share) if self.schedule == "cosine" else step_decay(share, self.milestones, self.decay)
        return self.learning_rate * decay * linear_warmup(share, start=0.01, fraction=self.warmup_fraction)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The course of the run."""

    epochs: float = 20
    """Passes over the data; the last may be a part of one."""
    batch_size: int = 256
    """Images in a step, over all processes together."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""
    accumulate: int = field(default=1, metadata=FREE)
    """Parts of a step that are computed one after the other, where memory is too small for all of them at once."""
    precision: Precision = field(default="auto", metadata=FREE)
    """Precision of the network's products; auto takes bfloat16 where the hardware has it, else float16 on a GPU, which
    scales the loss so that small gradients survive. The loss itself is in float32."""
    compile: Compilation = field(default="auto", metadata=FREE)
    """Compile the network by torch.compile: steps are a tenth to a half faster after half a minute at the start. auto
    does so in runs of 1,000 steps and more on a CPU and 5,000 on a GPU, where there is a compiler (g++ for a CPU, gcc
    or clang for a GPU)."""
    ema_decay: float = 0.0
    """Evaluate and export the moving average of the weights, the class vectors' too, with this decay a step, such as
    0.999; 0 is the last ones."""
    init: Path | None = field(default=None, metadata=FREE)
    """Weights to begin with, of an exported model or a checkpoint; what it lacks, or holds in another shape, is named
    and begins at random."""
    freeze: list[str] = field(default_factory=list)
    """Parts whose weights stay as they are, by the beginnings of their names, such as network.trunk or loss."""
    sync_batch_norm: bool = False
    """Whether batch normalisation takes the statistics of all processes' samples, so that their number does not
    matter; it costs an exchange a layer."""
    capture: bool = field(default=False, metadata=FREE)
    """Capture the whole step as a CUDA graph, for small networks, whose steps are shorter than their launch."""
    log_every: int = field(default=20, metadata=FREE)
    """Steps between two lines of the log."""
    checkpoint_every: int = field(default=500, metadata=FREE)
    """Steps between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = field(default=2, metadata=FREE)
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        require(0 < self.epochs < math.inf, "epochs", self.epochs, "above 0")
        for name in ("batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "at least 0 and below 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
