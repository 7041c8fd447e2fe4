"""Losses on the angle between features and class vectors: CosFace (CVPR 2018) and ArcFace (CVPR 2019)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from facegm.losses.class_vectors import ClassificationConfig
from facegm.losses.classification import Margin, classify
from facegm.losses.engine import Implementation
from facegm.losses.interface import LossTerms
from facegm.losses.linear import ClassVectorLoss, linear_scores
from facegm.losses.negatives import Negatives
from facegm.losses.precision import precision_of
from facegm.losses.shard import Shard
from facegm.schedule import Progress


@dataclass(frozen=True, kw_only=True)
class _AngularConfig(ClassificationConfig):
    scale: float = 64.0
    """Factor on the cosines: the length that all features are given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale: {self.scale}, must be above 0")


@dataclass(frozen=True, kw_only=True)
class CosFaceConfig(_AngularConfig):
    """CosFace: a margin on the cosine."""

    margin: float = 0.35
    """Subtracted from the true class's cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin < 2:
            raise ValueError(f"margin: {self.margin}, must be at least 0 and below 2, the range of the cosine")


@dataclass(frozen=True, kw_only=True)
class ArcFaceConfig(_AngularConfig):
    """ArcFace: a margin on the angle."""

    margin: float = 0.5
    """Added to the true class's angle, in radians."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin < math.pi:
            raise ValueError(f"margin: {self.margin}, must be at least 0 and below pi")


def cosines(
    features: Float[Tensor, "batch dim"], weight: Float[Tensor, "classes dim"]
) -> Float[Tensor, "batch classes"]:
    """Cosine of the angle between each feature and each class vector."""
    precision = precision_of(features, weight)
    return linear_scores(normalize(features.to(precision)), normalize(weight.to(precision)))


def cosface_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    *,
    scale: float,
    margin: float,
    implementation: Implementation = "auto",
    shard: Shard | None = None,
    negatives: Negatives | None = None,
) -> LossTerms:
    """Mean cross-entropy of scale * (cos(theta_ik) - margin * [k = z_i]); the last three settings as of `classify`."""

    def widened(logit: Tensor, _: Tensor) -> Tensor:
        return logit - scale * margin

    return _angular_loss(features, weight, labels, scale, widened, implementation, shard, negatives)


def arcface_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    *,
    scale: float,
    margin: float,
    implementation: Implementation = "auto",
    shard: Shard | None = None,
    negatives: Negatives | None = None,
) -> LossTerms:
    """Mean cross-entropy of scale * cos(theta_ik + margin * [k = z_i]); the last three settings as of `classify`.

    Where theta + margin passes pi, and the cosine would rise again, the true class's logit is
    cos(theta) - margin * sin(margin), as in the authors' code.
    """

    def widened(logit: Tensor, _: Tensor) -> Tensor:
        cosine = logit / scale
        sine = (1 - cosine.square()).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()  # its slope is infinite at 0
        passes_pi = cosine <= math.cos(math.pi - margin)
        beyond = cosine - margin * math.sin(margin)
        return scale * torch.where(passes_pi, beyond, cosine * math.cos(margin) - sine * math.sin(margin))

    return _angular_loss(features, weight, labels, scale, widened, implementation, shard, negatives)


def _angular_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    margin: Margin,
    implementation: Implementation,
    shard: Shard | None,
    negatives: Negatives | None,
) -> LossTerms:
    """Of features on a sphere, whose logits are scale * cos(theta_ik)."""
    x = scale * normalize(features.to(precision_of(features, weight)))
    found = classify(
        x, weight, labels, margin, kind="cosines", implementation=implementation, shard=shard, negatives=negatives
    )
    return LossTerms(found.term, found.accuracy)


class _AngularLoss(ClassVectorLoss):
    _function: Callable[..., LossTerms]

    def __init__(self, classes: int, dim: int, config: CosFaceConfig | ArcFaceConfig) -> None:
        super().__init__(classes, dim, config)
        self._config = config

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> LossTerms:
        """Compute the loss of the features."""
        features, labels = self._gathered(features, labels)
        c, settings = self._config, self._comparison(labels, progress)
        return self._function(features, self.weight, labels, scale=c.scale, margin=c.margin, **settings)

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Cosines, without scale and margin."""
        return cosines(features, self.weight)


class CosFaceLoss(_AngularLoss):
    """Class vectors, and `cosface_loss` with them."""

    _function = staticmethod(cosface_loss)

    def __init__(self, classes: int, dim: int, config: CosFaceConfig = CosFaceConfig()) -> None:
        super().__init__(classes, dim, config)


class ArcFaceLoss(_AngularLoss):
    """Class vectors, and `arcface_loss` with them."""

    _function = staticmethod(arcface_loss)

    def __init__(self, classes: int, dim: int, config: ArcFaceConfig = ArcFaceConfig()) -> None:
        super().__init__(classes, dim, config)
