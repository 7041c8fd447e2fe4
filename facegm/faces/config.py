"""The configuration of a face network's run: what is its own, beside the sections that all runs share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from facegm.data.preprocessing import Preprocessing
from facegm.data.residency import Residency
from facegm.identity import FREE
from facegm.losses.config import LossConfig
from facegm.models.face_network import FaceModelConfig, network_class
from facegm.training.config import OptimizerConfig, TrainConfig, require


@dataclass(frozen=True, kw_only=True)
class FaceDataConfig:
    """The faces to train on."""

    store: Path = field(metadata=FREE)
    """Store of aligned faces, made by `facegm align`; or, with `aligned`, faces that are read where they lie: a folder
    tree, a list, a tar file, an insightface `.rec` or an LMDB."""
    aligned: bool = field(default=False, metadata=FREE)
    """Whether `store` is no store, but holds faces on the usual five-point template; some are looked at."""
    identity_level: int = field(default=1, metadata=FREE)
    """Of faces that are no store: which folder of each names its identity, counted up from the face's own."""
    exclude_identities: list[str] = field(default_factory=list, metadata=FREE)
    """Identities to leave out, such as those that the evaluation set holds too."""
    jitter: float = 0.0
    """Largest random change of contrast and brightness."""
    balanced: bool = False
    """Draw all identities equally often, however many faces each has."""
    residency: Residency | Literal["auto"] = field(default="auto", metadata=FREE)
    """Where decoded faces are kept: on the GPU, in the host's memory, or nowhere; auto takes the first with room."""
    workers: int = field(default=4, metadata=FREE)
    """Processes that decode faces, where they are kept nowhere."""

    def __post_init__(self) -> None:
        require(0 <= self.jitter < 1, "jitter", self.jitter, "at least 0 and below 1")
        require(self.identity_level >= 1, "identity_level", self.identity_level, "at least 1")
        require(self.workers >= 0, "workers", self.workers, "at least 0")


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
        require(self.every_epochs >= 1, "every_epochs", self.every_epochs, "at least 1")
        require((self.store is None) == (self.pairs is None), "pairs", self.pairs, "given together with store")


@dataclass(frozen=True, kw_only=True)
class FaceRunConfig:
    """A training run of a face network."""

    data: FaceDataConfig
    """The faces to train on."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """From aligned faces to the network's input."""
    model: FaceModelConfig = field(default_factory=FaceModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser and its schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The course of the run."""
    validation: ValidationConfig = field(default_factory=ValidationConfig, metadata=FREE)
    """Verification while training."""

    def __post_init__(self) -> None:
        network = network_class(self.model)
        network.require_input(self.preprocessing.crop_size)
        if network.has_batch_norm:
            at_once = self.train.batch_size // self.train.accumulate
            require(
                at_once != 1, "train.batch_size / train.accumulate", at_once, f"at least 2 faces for {network.label}"
            )
