"""What an attack on a set of images came to: success, distortion, and whether detectors notice."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from facegm.adversarial.detection import FALSE_ALARM_RATES, Detection, detection, false_alarms, threshold_at
from facegm.adversarial.recipe import AttackRecipe

Classes = Int64[np.ndarray, " images"]
Flags = Bool[np.ndarray, " images"]
Numbers = Float[np.ndarray, " images"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectorScores:
    """What a detector makes of the images of an attack; higher for normal ones."""

    clean: Numbers
    """Before the attack."""
    attacked: Numbers
    """After it."""
    quantised: Numbers
    """After it, rounded to 8 bits."""
    noisy: Numbers
    """Of the clean images with noise of the attack's distortion."""


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

    def detection(self, detector: str) -> Detection:
        """How a detector does, between the clean images and all attacked ones."""
        found = self.scores[detector]
        return detection(found.clean, found.attacked, self.is_fooled)

    def false_alarms_on_noise(self, detector: str) -> Mapping[float, float]:
        """Share of merely noisy images that a detector takes for manipulated, by its false-alarm rate on clean ones."""
        found = self.scores[detector]
        return false_alarms(found.clean, found.noisy)


def mean_where(numbers: Numbers, chosen: Flags) -> float | None:
    """The mean over the chosen images; None where there are none."""
    return float(numbers[chosen].mean()) if chosen.any() else None


def numbers_of(result: AttackResult) -> dict[str, Any]:
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
        "detectors": {name: _detection_numbers(result, name) for name in result.scores},
    }


def _detection_numbers(result: AttackResult, detector: str) -> dict[str, Any]:
    found = result.detection(detector)
    return {
        "area": found.area,
        "area_of_successes": found.area_of_successes,
        "undetected": by_rate(found.undetected),
        "false_alarms_on_noise": by_rate(result.false_alarms_on_noise(detector)),
        "thresholds": by_rate({rate: threshold_at(result.scores[detector].clean, rate) for rate in FALSE_ALARM_RATES}),
    }


def by_rate(numbers: Mapping[float, float]) -> dict[str, float]:
    """What is known by false-alarm rate, as JSON can hold it."""
    return {f"{rate:g}": number for rate, number in numbers.items()}
