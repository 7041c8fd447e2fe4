"""The configuration of a run for images of classes: what is its own, beside the sections that all runs share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from facegm.classification.preprocessing import ImagePreprocessing
from facegm.data.preprocessing import Padding
from facegm.data.residency import Residency
from facegm.identity import FREE
from facegm.losses.config import LossConfig
from facegm.models.image_network import ImageModelConfig
from facegm.training.config import OptimizerConfig, TrainConfig, require

ImageSetName = Literal["mnist", "cifar10", "cifar100", "folder"]


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig:
    """The images to train on, and those to evaluate on."""

    set: ImageSetName = "folder"
    """mnist, or any set in files of its format; cifar10; cifar100; or folder, photos of any size."""
    folder: Path = field(metadata=FREE)
    """Where the set's files lie. Photos lie as class/photo.jpg, or as train/class/photo.jpg and val/class/photo.jpg."""
    leave_out: list[str] = field(default_factory=list)
    """Classes to leave out of training, as examples of what the network does not know."""
    held_out: float = 0.2
    """Of photos in one folder tree, the share of each class that is kept from training, to evaluate on."""
    side: int = 224
    """Of photos: side in pixels of the network's input."""
    resize: int = 256
    """Of photos: what the shorter side is brought to before the middle is taken out of it, for an evaluation."""
    padding: int = 0
    """Of small images: pixels by which they are padded on each side before a part of their size is cut out."""
    border: Padding = "reflect"
    """What they are padded with: reflect, the image mirrored at its outermost pixels, or zero."""
    mirror: bool = False
    """Of small images: whether they are mirrored at random."""
    residency: Residency | Literal["auto"] = field(default="auto", metadata=FREE)
    """Where small images are kept: on the GPU, in the host's memory; auto takes the first with room."""
    workers: int = field(default=4, metadata=FREE)
    """Processes that decode photos."""

    def __post_init__(self) -> None:
        require(0 < self.held_out < 1, "held_out", self.held_out, "above 0 and below 1")
        require(1 <= self.side <= self.resize, "side", self.side, f"from 1 to resize ({self.resize})")
        require(self.padding >= 0, "padding", self.padding, "at least 0")
        require(self.workers >= 0, "workers", self.workers, "at least 0")


@dataclass(frozen=True, kw_only=True)
class ImageValidationConfig:
    """Classification of the set's test images while training; the run's result is that of the last epoch."""

    every_epochs: int = 5
    """Epochs between two of them; there is always one at the end."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 1, "every_epochs", self.every_epochs, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig:
    """A training run of a network for images of classes."""

    task: Literal["classification"] = "classification"
    """What the configuration is of."""
    data: ImageDataConfig
    """The images."""
    preprocessing: ImagePreprocessing = field(default_factory=ImagePreprocessing)
    """From pixels to the network's input."""
    model: ImageModelConfig = field(default_factory=ImageModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser and its schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The course of the run."""
    validation: ImageValidationConfig = field(default_factory=ImageValidationConfig, metadata=FREE)
    """Classification of the set's test images while training."""
