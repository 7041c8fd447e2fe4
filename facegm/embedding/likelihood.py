"""The likelihood of a face under the classes of a GM run, and from where on it is called abnormal; travels in the file.

Abnormal means: farther from every training identity than nearly all faces of the calibration set. It does not mean hard
to recognise, nor manipulated: docs/quality.md and docs/adversarial.md have measured what it is worth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from facegm.align.found_face import Face
from facegm.errors import FacegmError

USUAL_FALSE_ALARM_RATE = 0.01
"""Taken where none is asked for."""
_NUMBERS = 2**24
"""Of the faces x identities matrix that is held at a time."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodThreshold:
    """Below which likelihood a face is abnormal, at a wanted rate of false alarms."""

    false_alarm_rate: float
    """The rate that was asked for: share of the calibration set's faces that is called abnormal."""
    threshold: float
    """Largest log-likelihood that keeps to it; faces below it are abnormal."""
    interval: tuple[float | None, float | None]
    """95 % interval of the threshold that has the rate; None on a side that the faces do not bound."""
    false_alarms: int
    """Faces below the threshold: few of them make it a rough one."""
    faces: int
    """All that it was measured on: faces that were found, each image once."""
    measured_on: str
    """Name of the set."""


class JudgedFaces(NamedTuple):
    """What the likelihood says of some faces."""

    likelihood: Float64[np.ndarray, " faces"]
    """See `ClassLikelihood.score`."""
    is_abnormal: Bool[np.ndarray, " faces"] | None
    """At the likelihood's false-alarm rate; None without one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassLikelihood:
    """Gaussians of identity covariance about the means of the training identities, as the GM loss has them."""

    means: Float[np.ndarray, "identities dim"]
    """mu, on the scale of the training."""
    thresholds: tuple[LikelihoodThreshold, ...] = ()
    """Of the false-alarm rates that the calibration set has faces enough for; none before the calibration."""
    false_alarm_rate: float | None = None
    """That of the threshold at which `judge` calls faces abnormal; None for no verdict."""

    def score(self, features: Float[np.ndarray, "faces dim"]) -> Float64[np.ndarray, " faces"]:
        """Log-likelihood under the nearest class, -min_k ||x - mu_k||^2 / 2, without the constant that all share.

        The nearest mean is looked for in the means' own precision, its distance computed in float64.

        Args:
            features: x, embeddings on the scale of the training; see `training_scale`.
        """
        scores, x, half_squares = np.empty(len(features)), features.astype(self.means.dtype), self._half_squares
        size = max(1, _NUMBERS // len(self.means))
        for part in (slice(start, start + size) for start in range(0, len(x), size)):
            nearest = (x[part] @ self.means.T - half_squares).argmax(axis=1)
            difference = features[part].astype(np.float64) - self.means[nearest]
            scores[part] = -np.square(difference).sum(axis=1) / 2
        return scores

    def threshold_at(self, false_alarm_rate: float) -> float:
        """The threshold of a false-alarm rate that was measured.

        Raises:
            FacegmError: another rate, or the embedder has not been calibrated.
        """
        for found in self.thresholds:
            if found.false_alarm_rate == false_alarm_rate:
                return found.threshold
        measured = ", ".join(f"{found.false_alarm_rate:g}" for found in self.thresholds)
        raise FacegmError(
            f"false-alarm rate {false_alarm_rate:g}: "
            + (
                f"{self.thresholds[0].measured_on} gave thresholds of {measured}; take one of those"
                if measured
                else "this embedder has not been calibrated; `facegm verify --calibrate` does it"
            )
        )

    def is_abnormal(self, scores: Float[np.ndarray, " faces"], false_alarm_rate: float) -> Bool[np.ndarray, " faces"]:
        """Whether faces lie farther from every class than all but a share of the calibration set's.

        Args:
            scores: of the faces, by `score`.
            false_alarm_rate: that share; one that was measured.

        Raises:
            FacegmError: another rate.
        """
        return np.asarray(scores < self.threshold_at(false_alarm_rate))

    def judge(self, embeddings: Float[np.ndarray, "faces dim"], *, is_mirrored: bool) -> JudgedFaces:
        """Score embeddings as an embedder gives them, and judge them at the false-alarm rate.

        Args:
            embeddings: mirror-summed where `is_mirrored`, not normalised.
            is_mirrored: whether an embedding is that of the face plus that of its mirror image.
        """
        scores, rate = self.score(training_scale(embeddings, is_mirrored=is_mirrored)), self.false_alarm_rate
        return JudgedFaces(scores, None if rate is None else self.is_abnormal(scores, rate))

    @cached_property
    def _half_squares(self) -> Float[np.ndarray, " identities"]:
        squares = np.einsum("kd,kd->k", self.means, self.means, dtype=np.float64)
        return np.asarray((squares / 2).astype(self.means.dtype))


def with_likelihood(
    faces: Sequence[Face],
    embeddings: Float[np.ndarray, "faces dim"],
    likelihood: ClassLikelihood | None,
    *,
    is_mirrored: bool,
) -> list[Face]:
    """The same faces with what the likelihood says of them; as they are where there is none.

    Args:
        faces: found in photos.
        embeddings: of these, not normalised.
        likelihood: of the embedder.
        is_mirrored: whether its embeddings are sums of both sides.
    """
    if likelihood is None:
        return [*faces]
    scores, verdicts = likelihood.judge(embeddings, is_mirrored=is_mirrored)
    are_abnormal = [None] * len(faces) if verdicts is None else verdicts.tolist()
    return [
        replace(face, likelihood=score, is_abnormal=is_abnormal)
        for face, score, is_abnormal in zip(faces, scores.tolist(), are_abnormal, strict=True)
    ]


def training_scale(
    embeddings: Float[np.ndarray, "faces dim"], *, is_mirrored: bool
) -> Float64[np.ndarray, "faces dim"]:
    """Embeddings on the scale of the training, where the means lie.

    Args:
        embeddings: not normalised.
        is_mirrored: whether an embedding is the sum of both sides, whose mean is taken then.
    """
    return embeddings.astype(np.float64) / (2 if is_mirrored else 1)


def usual_false_alarm_rate(thresholds: Sequence[LikelihoodThreshold]) -> float | None:
    """One in a hundred, or of fewer faces the smallest rate that was measured; None before the calibration."""
    measured = [found.false_alarm_rate for found in thresholds]
    return USUAL_FALSE_ALARM_RATE if USUAL_FALSE_ALARM_RATE in measured else min(measured, default=None)


def thresholds_from_json(found: Sequence[Mapping[str, Any]]) -> tuple[LikelihoodThreshold, ...]:
    """Read what `thresholds_to_json` gives.

    Raises:
        IndexError, KeyError, TypeError, ValueError: it is something else.
    """
    thresholds = tuple(
        LikelihoodThreshold(**{**one, "interval": (one["interval"][0], one["interval"][1])}) for one in found
    )
    if not all(isfinite(one.threshold) for one in thresholds):
        raise ValueError(f"thresholds {[one.threshold for one in thresholds]}")
    return thresholds


def thresholds_to_json(thresholds: Sequence[LikelihoodThreshold]) -> list[dict[str, Any]]:
    """What the file holds."""
    return [asdict(one) for one in thresholds]
