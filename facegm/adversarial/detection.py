"""How a detector does against an attack: areas under the ROC curve, and how often an attacker comes by undetected."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score

from facegm.adversarial.subject import Images, PixelRange
from facegm.errors import FacegmError

FALSE_ALARM_RATES = (0.01, 0.05, 0.10)
"""Shares of clean images that a detector may take for manipulated ones."""

Scores = Float[np.ndarray, " images"]
Flags = Bool[np.ndarray, " images"]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How a detector does against an attack; shares from 0 to 1."""

    images: int
    """Pairs of a clean image, classified right, and what the attack made of it."""
    area: float
    """Under the ROC curve, of clean images against all attacked ones, whether they fool the network or not."""
    area_of_successes: float | None
    """The same for the pairs whose attacked image fools the network; None where none does."""
    fooled: float
    """Share of attacked images that reach the attacker's goal, detector or not."""
    undetected: Mapping[float, float]
    """By false-alarm rate, the share of attacked images that reach the goal and the detector lets pass."""


def detection(normal_scores: Scores, attacked_scores: Scores, is_success: Flags) -> Detection:
    """Measure a detector by the scores of image pairs.

    Args:
        normal_scores: of clean images, classified right; higher for normal ones. One at least.
        attacked_scores: of what the attack made of each.
        is_success: whether that reaches the attacker's goal, the detector apart.

    Raises:
        FacegmError: a score is not finite.
    """
    return Detection(
        images=len(normal_scores),
        area=area_under_roc(normal_scores, attacked_scores),
        area_of_successes=(
            area_under_roc(normal_scores[is_success], attacked_scores[is_success]) if is_success.any() else None
        ),
        fooled=float(is_success.mean()),
        undetected={
            rate: float((is_success & (attacked_scores >= threshold_at(normal_scores, rate))).mean())
            for rate in FALSE_ALARM_RATES
        },
    )


def area_under_roc(normal_scores: Scores, other_scores: Scores) -> float:
    """The chance that a normal image scores higher than another, a tie counting half.

    Raises:
        FacegmError: a score is not finite.
    """
    scores = np.concatenate([normal_scores, other_scores])
    if not np.isfinite(scores).all():
        raise FacegmError(f"detector: {int((~np.isfinite(scores)).sum())} of its scores are not finite; fit it anew")
    return float(roc_auc_score(np.repeat([1, 0], [len(normal_scores), len(other_scores)]), scores))


def threshold_at(normal_scores: Scores, false_alarm_rate: float) -> float:
    """The highest score below which no larger share of normal images lies; what reaches it passes."""
    return float(np.sort(normal_scores)[int(false_alarm_rate * len(normal_scores))])


def false_alarms(normal_scores: Scores, noisy_scores: Scores) -> dict[float, float]:
    """Share of noisy images that a detector takes for manipulated, by its false-alarm rate on clean ones."""
    return {rate: float((noisy_scores < threshold_at(normal_scores, rate)).mean()) for rate in FALSE_ALARM_RATES}


def equally_distorted_noise(
    images: Images, attacked: Images, pixel_range: PixelRange, generator: torch.Generator
) -> Images:
    """Clean images with Gaussian noise of the same Euclidean length as what the attack added to each.

    What leaves the pixel range is clipped, which takes a little of the length away.

    Args:
        images: clean ones.
        attacked: what the attack made of them.
        pixel_range: of both.
        generator: draws the noise, on the CPU.
    """
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images)
    lengths = ((attacked - images).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1))[:, None, None, None]
    return pixel_range.clamp(images + lengths * noise)
