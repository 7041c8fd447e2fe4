"""Which loss a run minimises, and the settings of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from facegm.losses.angular import ArcFaceConfig, ArcFaceLoss, CosFaceConfig, CosFaceLoss
from facegm.losses.center import CenterLoss, CenterLossConfig
from facegm.losses.class_vectors import ClassificationConfig
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.losses.interface import Loss
from facegm.losses.l_softmax import LSoftmaxConfig, LSoftmaxLoss
from facegm.losses.rce import RCELoss
from facegm.losses.softmax import SoftmaxConfig, SoftmaxLoss

LossName = Literal["gm", "softmax", "center", "l_softmax", "rce", "cosface", "arcface"]
_LOSSES: dict[LossName, Callable[..., Loss]] = {
    "gm": GMLoss,
    "softmax": SoftmaxLoss,
    "center": CenterLoss,
    "l_softmax": LSoftmaxLoss,
    "rce": RCELoss,
    "cosface": CosFaceLoss,
    "arcface": ArcFaceLoss,
}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss, by name, and the settings of each that has any, so that comparing losses is to change the name."""

    name: LossName = "gm"
    """The loss: gm, softmax, center, l_softmax, rce (reverse cross-entropy), cosface or arcface."""
    gm: GMLossConfig = field(default_factory=GMLossConfig)
    """Settings of gm."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    """Settings of softmax."""
    center: CenterLossConfig = field(default_factory=CenterLossConfig)
    """Settings of center."""
    l_softmax: LSoftmaxConfig = field(default_factory=LSoftmaxConfig)
    """Settings of l_softmax."""
    cosface: CosFaceConfig = field(default_factory=CosFaceConfig)
    """Settings of cosface."""
    arcface: ArcFaceConfig = field(default_factory=ArcFaceConfig)
    """Settings of arcface."""

    @property
    def chosen(self) -> Any:
        """Settings of the loss of that name; None where it has none."""
        return getattr(self, self.name, None)

    @property
    def classification(self) -> ClassificationConfig | None:
        """How the chosen loss compares a batch with the classes; None of one that has but one way."""
        return self.chosen if isinstance(self.chosen, ClassificationConfig) else None

    @property
    def is_split(self) -> bool:
        """Whether its class vectors are to be split over the processes."""
        return self.classification is not None and self.classification.shard_means

    def sections_in_use(self) -> tuple[str, ...]:
        """Which sections matter; see `facegm.identity`."""
        return (self.name,)

    def __str__(self) -> str:
        return self.name if self.chosen is None else str(self.chosen)


def build_loss(config: LossConfig, classes: int, dim: int) -> Loss:
    """The loss that a configuration asks for, with new class vectors.

    Args:
        config: which loss, and its settings.
        classes: number of identities or categories.
        dim: length of a feature.
    """
    settings = () if config.chosen is None else (config.chosen,)
    return _LOSSES[config.name](classes, dim, *settings)
