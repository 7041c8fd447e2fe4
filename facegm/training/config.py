"""The configuration of a training run: one dataclass a section, each field's docstring being its help."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from facegm.data.preprocessing import Preprocessing
from facegm.losses.config import LossConfig
from facegm.models.face_resnet import MINIMUM_INPUT, FaceResNetConfig
from facegm.training.compilation import Compilation


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {value}, must be {rule}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The faces to train on."""

    store: Path
    """Store of aligned faces, made by `facegm align`; or faces that are aligned already and are read where they
    lie: a folder tree, a list, a tar file or an insightface `.rec`."""
    exclude_identities: list[str] = field(default_factory=list)
    """Identities to leave out, such as those that the evaluation set holds too; put names of digits in quotes."""
    jitter: float = 0.0
    """Largest random change of contrast and brightness."""
    balanced: bool = False
    """Draw all identities equally often, however many faces each has."""
    residency: Literal["auto", "device", "host", "stream"] = "auto"
    """Where decoded faces are kept: on the GPU, in the host's memory, or nowhere; auto takes the first with room."""
    workers: int = 4
    """Processes that decode faces, where they are kept nowhere."""

    def __post_init__(self) -> None:
        _require(0 <= self.jitter < 1, "jitter", self.jitter, "at least 0 and below 1")
        _require(self.workers >= 0, "workers", self.workers, "at least 0")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and how its learning rate falls."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: float = 0.1
    """Highest learning rate; AdamW wants about a hundredth of SGD's."""
    momentum: float = 0.9
    """Momentum; of AdamW the first beta."""
    weight_decay: float = 0.0005
    """Weight decay of convolution and linear weights; biases and PReLU slopes have none, the GM loss's means theirs."""
    warmup_fraction: float = 0.0
    """Share of the run over which the learning rate rises linearly from a hundredth."""
    schedule: Literal["step", "cosine"] = "step"
    """Fall by steps at the milestones, or along half a cosine to 0 at the end."""
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.8])
    """Shares of the run at which the step schedule divides the learning rate by 10."""
    clip_gradient: float = 2.0
    """Largest L2 norm of the gradient, network and means together; .inf for no clipping. A network without
    normalisation layers needs one: single steep batches have thrown runs at learning rate 0.1 off for good."""

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "at least 0 and below 1")
        _require(self.clip_gradient > 0, "clip_gradient", self.clip_gradient, "above 0")
        ordered = sorted(self.milestones) == self.milestones and all(0 < share < 1 for share in self.milestones)
        _require(ordered, "milestones", self.milestones, "rising shares of the run between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The course of the run."""

    epochs: int = 20
    """Passes over the data."""
    batch_size: int = 256
    """Images in a step, over all processes together."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""
    accumulate: int = 1
    """Parts of a step that are computed one after the other, where memory is too small for all of them at once."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the network's products; auto takes bfloat16 where the hardware has it, else float16 on a GPU, which
    scales the loss so that small gradients survive. The loss itself is in float32."""
    compile: Compilation = "auto"
    """Compile the network by torch.compile: steps are a tenth to a half faster after half a minute at the start. auto
    does so in runs of 1,000 steps and more on a CPU and 5,000 on a GPU, where there is a compiler (g++ for a CPU, gcc
    or clang for a GPU)."""
    ema_decay: float = 0.0
    """Export the moving average of the network's weights with this decay a step, such as 0.999; 0 is the last ones."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "at least 0 and below 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Verification while training, for the choice of settings; not on the set that results are reported of."""

    store: Path | None = None
    """Store of the aligned faces that the pairs name; none for no validation."""
    pairs: Path | None = None
    """Pairs of them, in the format of LFW's pairs.txt."""
    every_epochs: int = 1
    """Epochs between two validations; there is always one at the end."""

    def __post_init__(self) -> None:
        _require(self.every_epochs >= 1, "every_epochs", self.every_epochs, "at least 1")
        _require((self.store is None) == (self.pairs is None), "pairs", self.pairs, "given together with store")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run of a face network."""

    data: DataConfig
    """The faces to train on."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """From aligned faces to the network's input."""
    model: FaceResNetConfig = field(default_factory=FaceResNetConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser and its schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The course of the run."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Verification while training."""

    def __post_init__(self) -> None:
        if self.preprocessing.crop_size < MINIMUM_INPUT:
            raise ValueError(
                f"preprocessing.crop_size: {self.preprocessing.crop_size}, the network needs at least {MINIMUM_INPUT}"
            )

    def to_yaml(self) -> str:
        """The resolved configuration, with absolute paths, so that it holds wherever it is read."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value.resolve()) if isinstance(value, Path) else value
