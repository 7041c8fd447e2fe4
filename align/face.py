"""One photo's detected faces to one aligned face: the step that the pipeline and the embedder share."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from facegm.align.choice import FaceChoice
from facegm.align.detector import DetectedFaces
from facegm.align.warp import center_crop, warp_face

LANDMARK_DECIMALS = 3
"""Landmarks are rounded before the warp, to what the manifest keeps: the face follows from its record exactly."""


@dataclass(frozen=True, kw_only=True)
class AlignedFace:
    """A face on the template, and where it was found; without a found face, the reason and perhaps a centre crop."""

    image: UInt8[np.ndarray, "128 128 3"] | None
    """RGB, 0 to 255."""
    faces: int
    """Number of faces found in the photo."""
    reason: str | None = None
    """Why there is no found face."""
    box: Float[np.ndarray, "4"] | None = None
    landmarks: Float[np.ndarray, "5 2"] | None = None
    probability: float | None = None


def align_face(
    photo: UInt8[np.ndarray, "height width 3"],
    faces: DetectedFaces,
    choice: FaceChoice | None = None,
    *,
    crop_when_missing: bool,
) -> AlignedFace:
    """Choose the subject among the faces of an upright RGB photo and warp it to the template.

    Args:
        photo: RGB, 0 to 255.
        faces: those that were found in it.
        choice: which of them is the subject; None for the largest central one.
        crop_when_missing: take the photo's middle where there is no face, as evaluation sets need.
    """
    chosen = (choice or FaceChoice()).choose(faces, photo.shape)
    reason = "no face found" if not len(faces) else "no face large and probable enough"
    if chosen is not None:
        landmarks = faces.landmarks[chosen].round(LANDMARK_DECIMALS)
        try:
            return AlignedFace(
                image=warp_face(photo, landmarks),
                faces=len(faces),
                box=faces.boxes[chosen],
                landmarks=landmarks,
                probability=float(faces.probabilities[chosen]),
            )
        except ValueError as error:
            reason = str(error)
    return AlignedFace(image=center_crop(photo) if crop_when_missing else None, faces=len(faces), reason=reason)
