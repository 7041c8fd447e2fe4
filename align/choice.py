"""Which of the faces of a photo is its subject."""

from dataclasses import dataclass

import numpy as np

from facegm.align.detector import DetectedFaces


@dataclass(frozen=True, kw_only=True)
class FaceChoice:
    """The rule by which a photo's subject is chosen: the largest central face of those that are good enough."""

    minimum_size: float = 0.0
    """Shortest side in pixels that a face's box must have."""
    minimum_probability: float = 0.0
    """Probability that the detector must give a face; it reports none below 0.7."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_size < np.inf:
            raise ValueError(f"minimum_size: {self.minimum_size}, must be a number of pixels from 0 on")
        if not 0 <= self.minimum_probability <= 1:
            raise ValueError(f"minimum_probability: {self.minimum_probability}, must be from 0 to 1")

    def choose(self, faces: DetectedFaces, photo_shape: tuple[int, ...]) -> int | None:
        """Index of the subject's face, or None where no face is good enough.

        The rule of the FaceNet alignment scripts: the box's area less twice the squared distance of its centre from the
        photo's centre, so that a large bystander at the border loses to the subject.
        """
        left, top, right, bottom = faces.boxes.T
        height, width = photo_shape[:2]
        good = (np.minimum(right - left, bottom - top) >= self.minimum_size) & (
            faces.probabilities >= self.minimum_probability
        )
        if not good.any():
            return None
        off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
        return int(np.argmax(np.where(good, (right - left) * (bottom - top) - 2 * off_centre, -np.inf)))
