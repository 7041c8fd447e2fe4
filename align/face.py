"""One photo to one aligned face: the step that the pipeline and the embedder share."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from facegm.align.detector import FaceDetector, choose_face
from facegm.align.warp import center_crop, warp_face


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
    detector: FaceDetector, photo: UInt8[np.ndarray, "height width 3"], *, crop_when_missing: bool
) -> AlignedFace:
    """Find the largest central face of an upright RGB photo and warp it to the template.

    Args:
        detector: finds the faces.
        photo: RGB, 0 to 255.
        crop_when_missing: take the photo's middle where no face is found, as evaluation sets need.
    """
    faces = detector.detect(photo)
    chosen = choose_face(faces, photo.shape)
    reason = "no face found"
    if chosen is not None:
        try:
            return AlignedFace(
                image=warp_face(photo, faces.landmarks[chosen]),
                faces=len(faces),
                box=faces.boxes[chosen],
                landmarks=faces.landmarks[chosen],
                probability=float(faces.probabilities[chosen]),
            )
        except ValueError as error:
            reason = str(error)
    return AlignedFace(image=center_crop(photo) if crop_when_missing else None, faces=len(faces), reason=reason)
