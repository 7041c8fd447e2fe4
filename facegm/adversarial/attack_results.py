"""What an attack on a set of images came to: success, distortion, and whether detectors notice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from sklearn.metrics import roc_auc_score

from facegm.adversarial.recipe import AttackRecipe

ALARM_RATES = (0.01, 0.05, 0.1)
"""Shares of the clean images that are taken for manipulated, at which the rest of an attack's success is told."""

Classes = Int64[np.ndarray, " images"]
Flags = Bool[np.ndarray, " images"]
Numbers = Float[np.ndarray, " images"]


def alarm_threshold(clean: Float[np.ndarray, " clean"], rate: float) -> float:
    """The score below which an image is taken for manipulated.

    Args:
        clean: scores of clean images, higher for normal ones; one at least.
        rate: the most of them that may be taken for manipulated, from 0 to below 1.
    """
    return float(np.sort(clean)[int(rate * len(clean))])


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectorScores:
    """What a detector makes of images; higher for normal ones."""

    clean: Float[np.ndarray, " clean"]
    """Of all clean images that are classified right."""
    before: Numbers
    """Of those that are attacked, before."""
    attacked: Numbers
    """After."""
    quantised: Numbers
    """After, rounded to 8 bits."""

    @property
    def area(self) -> float:
        """Under the ROC curve: the chance that a clean image scores higher than an attacked one, a tie counting half.

        Of all attacked images, whether the attack succeeded or not.
        """
        is_clean = np.repeat([True, False], [len(self.clean), len(self.attacked)])
        return float(roc_auc_score(is_clean, np.concatenate([self.clean, self.attacked])))


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackResult:
    """An attack on images that the network had classified right; arrays have a row an image."""

    name: str
    recipe: AttackRecipe
    labels: Classes
    """The true classes."""
    targets: Classes | None
    """What each was to be taken for; None where any other class would do."""
    is_success: Flags
    """Whether the attack reached its goal by its own account: where it has one with a margin, and a detector passed."""
    passes: Classes
    """Forward and backward passes."""
    predicted: Classes
    """The classes of the attacked images."""
    predicted_quantised: Classes
    """The same, of the images rounded to 8 bits."""
    distortion: Numbers
    """Root mean square change of a pixel, on a scale of 0 to 255."""
    distortion_quantised: Numbers
    largest_change: Numbers
    """L-infinity distance, on a scale of 0 to 255."""
    scores: Mapping[str, DetectorScores]
    """By detector."""
    levels: UInt8[np.ndarray, "images height width channels"]
    """The attacked images, rounded to 8 bits."""

    @cached_property
    def is_fooled(self) -> Flags:
        """Whether the network takes the attacked image for what the attacker wants."""
        return self._is_fooled(self.predicted)

    @cached_property
    def is_fooled_quantised(self) -> Flags:
        """The same, of the images rounded to 8 bits."""
        return self._is_fooled(self.predicted_quantised)

    def _is_fooled(self, predicted: Classes) -> Flags:
        return np.asarray(predicted != self.labels if self.targets is None else predicted == self.targets)

    def undetected(self, detector: str, rate: float) -> float:
        """Share of the images that fool the network and pass a detector whose false alarms are no more than `rate`."""
        scores = self.scores[detector]
        passes = scores.attacked >= alarm_threshold(scores.clean, rate)
        return float((self.is_fooled & passes).mean())


def mean_where(numbers: Numbers, chosen: Flags) -> float | None:
    """The mean over the chosen images; None where there are none."""
    return float(numbers[chosen].mean()) if chosen.any() else None


def numbers_of(result: AttackResult, detectors: Sequence[str]) -> dict[str, object]:
    """The figures of an attack, for JSON: shares from 0 to 1, distortions on a scale of 0 to 255."""
    fooled, quantised = result.is_fooled, result.is_fooled_quantised
    return {
        "attack": result.name,
        "images": len(fooled),
        "success": float(fooled.mean()),
        "success_by_own_account": float(result.is_success.mean()),
        "success_quantised": float(quantised.mean()),
        "distortion": mean_where(result.distortion, fooled),
        "distortion_quantised": mean_where(result.distortion_quantised, quantised),
        "largest_change": mean_where(result.largest_change, fooled),
        "passes": float(result.passes.mean()),
        "detectors": {
            name: {
                "area": result.scores[name].area,
                "undetected": {f"{rate:g}": result.undetected(name, rate) for rate in ALARM_RATES},
            }
            for name in detectors
        },
    }
