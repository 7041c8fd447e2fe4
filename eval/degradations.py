"""A ladder of degradations of aligned faces: each kind in four severities, without chance beyond the image's name.

What is random, where a face is covered or how its pixels scatter, follows from seed, name and kind alone. So the
severities of one image differ in their strength and in nothing else, and an image is degraded alike in any set.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

Kind = Literal["blur", "downscaling", "noise", "occlusion", "darkness"]
STRENGTHS: Mapping[Kind, tuple[float, ...]] = {
    "blur": (1.5, 3.0, 5.0, 8.0),
    "downscaling": (2.5, 4.0, 6.0, 10.0),
    "noise": (15.0, 30.0, 60.0, 100.0),
    "occlusion": (0.1, 0.2, 0.35, 0.5),
    "darkness": (2.0, 5.0, 12.0, 30.0),
}
"""Strength at each severity, weakest first."""
UNITS: Mapping[Kind, str] = {
    "blur": "standard deviation of the Gaussian, in pixels of the face",
    "downscaling": "factor by which the face is shrunk before it is enlarged again",
    "noise": "standard deviation of the Gaussian, in grey levels of 255",
    "occlusion": "share of the face that a square of one colour covers",
    "darkness": "factor by which all grey levels are divided",
}
SEVERITIES = len(STRENGTHS["blur"])
DEGRADED_SHARE = 0.5
"""Chance of an image to be degraded where a whole set is; all kinds and severities are equally likely."""

Face = UInt8[np.ndarray, "side side 3"]


@dataclass(frozen=True, order=True)
class Degradation:
    """A rung of the ladder."""

    kind: Kind
    severity: int
    """From 1, the weakest, to `SEVERITIES`."""

    @property
    def strength(self) -> float:
        """How strong it is, in the unit of its kind, see `UNITS`."""
        return STRENGTHS[self.kind][self.severity - 1]


LADDER = tuple(Degradation(kind, severity + 1) for kind in STRENGTHS for severity in range(SEVERITIES))
"""All of them, each kind's from weak to strong."""


def drawn_degradation(name: str, seed: int) -> Degradation | None:
    """What an image suffers where each is degraded by chance, `DEGRADED_SHARE`; None where it stays as it is."""
    rng = _generator(name, "drawn", seed)
    return LADDER[rng.integers(len(LADDER))] if rng.random() < DEGRADED_SHARE else None


def degrade(face: Face, degradation: Degradation | None, *, name: str, seed: int) -> Face:
    """Degrade an aligned face; grey levels are rounded and clipped to 0 to 255.

    Args:
        face: RGB, 0 to 255.
        degradation: which; None leaves the face as it is.
        name: of the image.
        seed: not negative.
    """
    if degradation is None:
        return face
    rng, strength = _generator(name, degradation.kind, seed), degradation.strength
    match degradation.kind:
        case "blur":
            # OpenCV cuts it off at three standard deviations, beyond which 0.3 % of a Gaussian lie.
            return np.asarray(cv2.GaussianBlur(face, (0, 0), strength, borderType=cv2.BORDER_REFLECT_101), np.uint8)
        case "downscaling":
            return _downscaled(face, strength)
        case "noise":
            return _levels(face + strength * rng.standard_normal(face.shape))
        case "occlusion":
            return _occluded(face, strength, rng)
        case "darkness":
            return _levels(face / strength)


def _downscaled(face: Face, factor: float) -> Face:
    """Shrunk by averages over areas, and enlarged again by bilinear interpolation."""
    side = len(face)
    small = max(1, round(side / factor))
    shrunk = cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _occluded(face: Face, share: float, rng: np.random.Generator) -> Face:
    """A square somewhere within the face, larger ones around smaller ones, of one random colour."""
    color, place = rng.integers(0, 256, 3, np.uint8), rng.random(2)
    side = round(len(face) * share**0.5)
    top, left = np.rint(place * (len(face) - side)).astype(int)
    covered = face.copy()
    covered[top : top + side, left : left + side] = color
    return covered


def _levels(pixels: np.ndarray) -> Face:
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def _generator(name: str, purpose: str, seed: int) -> np.random.Generator:
    """Of seed, name and purpose alone."""
    digest = hashlib.sha256(f"{purpose}\0{name}".encode(errors="surrogateescape")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])
