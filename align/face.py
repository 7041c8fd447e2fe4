"""From the faces found in a photo to one on the template: the choice, the five-point warp, and how good the face is.

The pipeline and the embedder share these steps.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from facegm.align.detector import DetectedFaces
from facegm.align.found_face import LANDMARK_DECIMALS, Face, FaceQuality, in_whole_photo

FACE_SIZE = 128
"""Side of an aligned face in pixels."""

TEMPLATE: Float[np.ndarray, "5 2"] = np.array(
    [
        (43.7653, 59.0815),
        (84.0363, 58.8587),
        (64.0288, 81.9847),
        (47.4849, 105.5606),
        (80.8342, 105.3761),
    ]
)
"""Where left eye, right eye, nose and mouth corners come to lie, as (x, y) pixels of the 128x128 face: the usual
112x112 five-point template, enlarged by 128/112."""

FALLBACK_FRACTION = 0.53
"""Share of the photo's shorter side that the centre crop of a photo without a found face shows: the median over LFW's
aligned faces, so that the crop shows a face in the middle at the usual size."""
HASH_BITS = 256
_HASH_SIDE = 16


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
        """Index of the subject's face, or None where no face is good enough."""
        ranked = self.ranked(faces, photo_shape)
        return int(ranked[0]) if len(ranked) else None

    def ranked(self, faces: DetectedFaces, photo_shape: tuple[int, ...]) -> Int[np.ndarray, " good"]:
        """Indices of the faces that are good enough, the subject's first.

        The rule of the FaceNet alignment scripts: the box's area less twice the squared distance of its centre from the
        photo's centre, so that a large bystander at the border loses to the subject.
        """
        left, top, right, bottom = faces.boxes.T
        height, width = photo_shape[:2]
        good = (np.minimum(right - left, bottom - top) >= self.minimum_size) & (
            faces.probabilities >= self.minimum_probability
        )
        off_centre = ((left + right - width) / 2) ** 2 + ((top + bottom - height) / 2) ** 2
        order = np.argsort(2 * off_centre - (right - left) * (bottom - top), kind="stable")
        return np.asarray(order[good[order]])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a photo was aligned to: its subject's face; without one, the reason and perhaps the photo's middle."""

    image: UInt8[np.ndarray, "128 128 3"] | None
    """RGB, 0 to 255: the face's chip, or the middle."""
    faces: int
    """Number of faces found in the photo."""
    face: Face | None = None
    reason: str | None = None
    """Why there is no face."""


def align_face(
    photo: UInt8[np.ndarray, "height width 3"],
    faces: DetectedFaces,
    choice: FaceChoice | None = None,
    *,
    crop_when_missing: bool,
    reduction: int = 1,
) -> Subject:
    """Choose the subject among the faces of an upright RGB photo and warp it to the template; see `measured_faces`.

    Args:
        photo: RGB, 0 to 255.
        faces: those that were found in it.
        choice: which of them is the subject; None for the largest central one.
        crop_when_missing: take the photo's middle where there is no face, as evaluation sets need.
        reduction: by how much the photo's sides were divided when it was decoded.
    """
    ranked = (choice or FaceChoice()).ranked(faces, photo.shape)
    for face in measured_faces(photo, faces, ranked, reduction):
        return Subject(image=face.chip, faces=len(faces), face=face)
    if len(ranked):
        reason = "the landmarks of no face determine a warp"
    else:
        reason = "no face large and probable enough" if len(faces) else "no face found"
    return Subject(image=center_crop(photo) if crop_when_missing else None, faces=len(faces), reason=reason)


def measured_faces(
    photo: UInt8[np.ndarray, "height width 3"],
    faces: DetectedFaces,
    ranked: Int[np.ndarray, " good"],
    reduction: int = 1,
) -> Iterator[Face]:
    """A photo's faces on the template, as they are ranked; those that no warp brings there are passed over.

    So the subject is the same face whether it alone is asked for or all of them.
    """
    for number in ranked:
        with suppress(ValueError):
            yield measured_face(photo, faces, int(number), reduction)


def measured_face(
    photo: UInt8[np.ndarray, "height width 3"], faces: DetectedFaces, number: int, reduction: int = 1
) -> Face:
    """Warp one of a photo's faces to the template, and measure it; see `align_face`.

    Raises:
        ValueError: its landmarks coincide or are not finite.
    """
    landmarks = faces.landmarks[number].round(LANDMARK_DECIMALS)
    chip = warp_face(photo, landmarks)
    return Face(
        box=in_whole_photo(faces.boxes[number], reduction),
        landmarks=in_whole_photo(landmarks, reduction),
        probability=float(faces.probabilities[number]),
        chip=chip,
        quality=FaceQuality(
            residual=alignment_residual(landmarks),
            profile=profile(landmarks),
            sharpness=sharpness(chip),
            contrast=contrast(chip),
        ),
    )


def similarity_transform(
    source: Float[np.ndarray, "points 2"], target: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, "2 3"]:
    """Rotation, uniform scale and shift that bring `source` nearest to `target` in the least-squares sense.

    The unknowns (a, b, tx, ty) of x' = a x - b y + tx, y' = b x + a y + ty enter linearly, so no iteration and no
    outlier rejection is needed: five landmarks are too few to reject one.

    Raises:
        ValueError: the points coincide or are not finite, so that no scale is defined.
    """
    if not np.isfinite(source).all():
        raise ValueError("the landmarks are not finite")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = (x * x + y * y).sum()
    if spread < 1e-12:
        raise ValueError("the landmarks coincide")
    a, b = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack([rotation, target_mean - rotation @ source_mean])


def warp_face(
    photo: UInt8[np.ndarray, "height width 3"], landmarks: Float[np.ndarray, "5 2"]
) -> UInt8[np.ndarray, "128 128 3"]:
    """Bring a face onto the template; what lies outside the photo becomes black.

    Args:
        photo: the upright photo, RGB, 0 to 255.
        landmarks: eyes, nose and mouth corners as (x, y) in pixels of the photo.

    Raises:
        ValueError: the landmarks coincide or are not finite.
    """
    return _warp(photo, similarity_transform(np.asarray(landmarks, np.float64), TEMPLATE))


def center_crop(photo: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "128 128 3"]:
    """The middle of a photo, at the size a face has in sets whose subject stands in the middle, such as LFW."""
    height, width = photo.shape[:2]
    scale = FACE_SIZE / (FALLBACK_FRACTION * min(height, width))
    # Pixel centres lie at integers: the middle of n pixels is (n - 1) / 2.
    shift = (FACE_SIZE - 1) / 2 - scale * np.array([(width - 1) / 2, (height - 1) / 2])
    return _warp(photo, np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]]))


def resize_aligned(face: UInt8[np.ndarray, "side side 3"], size: int = FACE_SIZE) -> UInt8[np.ndarray, "size size 3"]:
    """Bring a face that lies on the usual template, such as insightface's 112x112 pixels, to another size.

    Args:
        face: RGB, 0 to 255.
        size: side in pixels; by default that of this template.

    Raises:
        ValueError: it is not square.
    """
    height, width = face.shape[:2]
    if height != width:
        raise ValueError(f"{width}x{height} pixels; a face that is aligned already is square, as 112x112")
    if height == size:
        return face
    # The template of another size is this one's, multiplied: pixel 0 stays where it is.
    scale = size / height
    # The outermost pixels lie up to half a pixel outside: no black may be mixed in there.
    return _warp(face, np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]]), size, outside=cv2.BORDER_REPLICATE)


def _warp(
    photo: UInt8[np.ndarray, "height width 3"],
    transform: Float[np.ndarray, "2 3"],
    size: int = FACE_SIZE,
    *,
    outside: int = cv2.BORDER_CONSTANT,
) -> UInt8[np.ndarray, "size size 3"]:
    """Warp with bilinear sampling, after area-averaging large photos so that shrinking does not alias."""
    shrink = int(1 / np.hypot(transform[0, 0], transform[1, 0]))
    if shrink > 1:
        height, width = photo.shape[:2]
        photo = cv2.resize(photo, (max(1, width // shrink), max(1, height // shrink)), interpolation=cv2.INTER_AREA)
        # Pixel centres lie at integers: x_large = f (x_small + 1/2) - 1/2.
        factors = np.array([width / photo.shape[1], height / photo.shape[0]])
        transform = np.column_stack(
            [transform[:, :2] * factors, transform[:, 2] + transform[:, :2] @ ((factors - 1) / 2)]
        )
    return np.asarray(cv2.warpAffine(photo, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=outside))


def alignment_residual(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """Root mean square distance between the warped landmarks and the template: grows with yaw, pitch and misdetection.

    Args:
        landmarks: eyes, nose and mouth corners as (x, y) in pixels of the photo.

    Returns:
        Pixels of the 128x128 face.

    Raises:
        ValueError: the landmarks coincide or are not finite.
    """
    return float(np.sqrt(((_warped(landmarks) - TEMPLATE) ** 2).sum(axis=1).mean()))


def profile(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """How far the head is turned to the side, as a share of a quarter turn: 0 frontal, 1 full profile.

    The nose stands out from the eyes' plane by about half the distance between the eyes. Turned by an angle, it moves
    aside by sin(angle) of that, while half the distance between the eyes shrinks to cos(angle): their ratio is the
    tangent. Roll is taken out by the warp, which rests on all five landmarks.

    On LFW and CelebA faces this lies within 2 degrees (median; 9 at the 95th percentile) of a rigid 3D fit to the same
    landmarks. Unlike the bare ratio, it neither jumps nor has to be clipped where a profile's eyes fall together.

    Args:
        landmarks: eyes, nose and mouth corners as (x, y) in pixels of the photo.

    Raises:
        ValueError: the landmarks coincide or are not finite.
    """
    left_eye, right_eye, nose = _warped(landmarks)[:3]
    aside = abs(nose[0] - (left_eye[0] + right_eye[0]) / 2)
    half_distance = np.hypot(*(right_eye - left_eye)) / 2
    return float(np.arctan2(aside, half_distance) / (np.pi / 2))


def sharpness(face: UInt8[np.ndarray, "128 128 3"]) -> float:
    """Variance of the Laplacian of an RGB face's luminance; low is blurred (Pech-Pacheco et al. 2000)."""
    return float(cv2.Laplacian(_luminance(face), cv2.CV_64F).var())


def contrast(face: UInt8[np.ndarray, "128 128 3"]) -> float:
    """Standard deviation of an RGB face's luminance, of 0 to 255."""
    return float(_luminance(face).std())


def perceptual_hash(face: UInt8[np.ndarray, "128 128 3"]) -> str:
    """Which of a face's 256 low frequencies lie above their median: the hash of PDQ (Meta 2019), for aligned faces.

    The cosine transform of the luminance at 64x64 pixels, frequencies 1 to 16 in both directions. Frequency 0, the
    mean and what is constant along a row or column, is left out: light changes it, and aligned faces have it in common.

    Args:
        face: RGB, 0 to 255.

    Returns:
        64 hex digits. `facegm.align.duplicates.NEAR_DUPLICATE_BITS` says how many bits near-duplicates differ in.
    """
    small = cv2.resize(_luminance(face), (4 * _HASH_SIDE, 4 * _HASH_SIDE), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float64))[1 : 1 + _HASH_SIDE, 1 : 1 + _HASH_SIDE]
    return np.packbits(frequencies > np.median(frequencies)).tobytes().hex()


def _warped(landmarks: Float[np.ndarray, "5 2"]) -> Float[np.ndarray, "5 2"]:
    transform = similarity_transform(np.asarray(landmarks, np.float64), TEMPLATE)
    return np.asarray(landmarks @ transform[:, :2].T + transform[:, 2])


def _luminance(face: UInt8[np.ndarray, "128 128 3"]) -> UInt8[np.ndarray, "128 128"]:
    return np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY))
