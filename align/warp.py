"""The five-point similarity warp to the face template."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

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


def resize_aligned(face: UInt8[np.ndarray, "side side 3"]) -> UInt8[np.ndarray, "128 128 3"]:
    """Bring a face that lies on the usual template, such as insightface's 112x112 pixels, to this one's size.

    Raises:
        ValueError: it is not square.
    """
    height, width = face.shape[:2]
    if height != width:
        raise ValueError(f"{width}x{height} pixels; a face that is aligned already is square, as 112x112")
    if height == FACE_SIZE:
        return face
    # The template of another size is this one's, multiplied: pixel 0 stays where it is.
    scale = FACE_SIZE / height
    # The outermost pixels lie up to half a pixel outside: no black may be mixed in there.
    return _warp(face, np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]]), outside=cv2.BORDER_REPLICATE)


def _warp(
    photo: UInt8[np.ndarray, "height width 3"],
    transform: Float[np.ndarray, "2 3"],
    *,
    outside: int = cv2.BORDER_CONSTANT,
) -> UInt8[np.ndarray, "128 128 3"]:
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
    size = (FACE_SIZE, FACE_SIZE)
    return np.asarray(cv2.warpAffine(photo, transform, size, flags=cv2.INTER_LINEAR, borderMode=outside))
