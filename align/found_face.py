"""A face in a photo: the one type that alignment, embedder, gallery and server hand on."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

BOX_DECIMALS, LANDMARK_DECIMALS, PROBABILITY_DECIMALS, QUALITY_DECIMALS = 3, 3, 6, 4
"""To which numbers are kept in files. Landmarks are rounded before the warp: the face follows from its record."""


@dataclass(frozen=True, kw_only=True)
class FaceQuality:
    """Numbers by which a face can be judged before it is embedded; see the functions of these names in `face.py`."""

    residual: float
    """Pixels of the 128x128 face by which its landmarks miss the template: large of odd poses and misdetections."""
    profile: float
    """How far the head is turned to the side: 0 frontal, 1 full profile."""
    sharpness: float
    """Variance of the Laplacian of the luminance: low is blurred."""
    contrast: float
    """Standard deviation of the luminance, of 0 to 255."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """A face that was found in a photo, aligned, and perhaps embedded."""

    box: Float[np.ndarray, "4"]
    """Left, top, right, bottom, in pixels of the whole upright photo."""
    landmarks: Float[np.ndarray, "5 2"]
    """Left eye, right eye, nose, left and right mouth corner as (x, y), in pixels of the whole upright photo."""
    probability: float
    """That it is a face, by the detector."""
    chip: UInt8[np.ndarray, "128 128 3"]
    """The face on the template, RGB, 0 to 255."""
    quality: FaceQuality
    embedding: Float32[np.ndarray, " dim"] | None = None
    """Of unit L2 norm; None before a network has seen it."""
    norm: float | None = None
    """L2 norm of the embedding before it was scaled."""
    likelihood: float | None = None
    """Log-likelihood under the class model of the network's training; None where the model has no class means."""
    is_abnormal: bool | None = None
    """Whether the likelihood lies below the threshold of a stated false-alarm rate; None without such a threshold."""

    def to_json(self, *, with_embedding: bool = False) -> dict[str, Any]:
        """The numbers, without the chip; of those that were not computed None.

        Args:
            with_embedding: the embedding too, and not its norm alone.
        """
        description: dict[str, Any] = {
            "box": self.box.round(BOX_DECIMALS).tolist(),
            "landmarks": self.landmarks.round(LANDMARK_DECIMALS).tolist(),
            "probability": round(self.probability, PROBABILITY_DECIMALS),
            "quality": {name: round(value, QUALITY_DECIMALS) for name, value in asdict(self.quality).items()},
            "norm": self.norm,
            "likelihood": self.likelihood,
            "is_abnormal": self.is_abnormal,
        }
        if with_embedding:
            description["embedding"] = None if self.embedding is None else self.embedding.tolist()
        return description


def in_whole_photo(coordinates: Float[np.ndarray, "*shape"], reduction: int) -> Float[np.ndarray, "*shape"]:
    """Coordinates in pixels of the whole photo, of those in one whose sides were divided by `reduction`.

    Pixel centres lie at integers: x_whole = f (x_reduced + 1/2) - 1/2.
    """
    return reduction * (coordinates + 0.5) - 0.5 if reduction > 1 else coordinates
