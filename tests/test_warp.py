"""Protects the five-point warp: landmarks come to lie on the template, to a fraction of a pixel at every photo size."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.align.face import FACE_SIZE, TEMPLATE, center_crop, resize_aligned, similarity_transform, warp_face

_SHIFTS = st.floats(-5000, 5000)
_ANGLES = st.floats(-np.pi, np.pi)


def _similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[a, -b, x], [b, a, y]])


def _apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.array([transform[:, :2] @ point + transform[:, 2] for point in points])


# ------------------------------------------------------------------------------------------------- the template


def test_the_template_is_the_usual_112_pixel_one_enlarged() -> None:
    narrow = [(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)]
    usual = np.array(narrow) + np.array((8, 0))  # the 96x112 template in the middle of 112x112
    assert FACE_SIZE == 128
    np.testing.assert_allclose(TEMPLATE, usual * 128 / 112, atol=1e-3)


# ------------------------------------------------------------------------------------------------- the transform


@given(scale=st.floats(0.01, 100), angle=_ANGLES, x=_SHIFTS, y=_SHIFTS, seed=st.integers(0, 1000))
def test_a_known_similarity_is_recovered(scale: float, angle: float, x: float, y: float, seed: int) -> None:
    source = np.random.default_rng(seed).normal(scale=30, size=(5, 2)) + 50
    known = _similarity(scale, angle, x, y)
    found = similarity_transform(source, _apply(known, source))
    np.testing.assert_allclose(found[:, :2], known[:, :2], rtol=0, atol=1e-9 * max(1.0, scale))
    np.testing.assert_allclose(_apply(found, source), _apply(known, source), rtol=0, atol=1e-7)


@given(
    scale=st.floats(0.05, 20),
    angle=_ANGLES,
    x=_SHIFTS,
    y=_SHIFTS,
    noise=st.floats(0, 20),
    points=st.integers(2, 9),
    seed=st.integers(0, 1000),
)
def test_noisy_points_are_fitted_as_by_least_squares(
    scale: float, angle: float, x: float, y: float, noise: float, points: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(scale=30, size=(points, 2)) + 60
    source = _apply(_similarity(scale, angle, x, y), target) + noise * scale * rng.normal(size=(points, 2))

    # x' = a x - b y + tx and y' = b x + a y + ty, one pair of rows a point, in the unknowns (a, b, tx, ty).
    rows = [row for px, py in source for row in ((px, -py, 1, 0), (py, px, 0, 1))]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows, float), target.ravel(), rcond=None)[0]

    fitted = _apply(similarity_transform(source, target), source)
    np.testing.assert_allclose(fitted, _apply(np.array([[a, -b, tx], [b, a, ty]]), source), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_landmarks_that_are_not_finite_are_refused(value: float) -> None:
    source = TEMPLATE.copy()
    source[2, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        similarity_transform(source, TEMPLATE)
    with pytest.raises(ValueError, match="not finite"):
        warp_face(np.zeros((50, 50, 3), np.uint8), source)


def test_coinciding_landmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        warp_face(np.zeros((50, 50, 3), np.uint8), np.full((5, 2), 17.25))


# ------------------------------------------------------------------------------------------------- the warp


def _photo_with_blobs(landmarks: np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """A smooth bright blob at each landmark, pixel centres at integers, drawn point by point from the formula."""
    photo = np.zeros((height, width))
    reach = int(6 * sigma) + 2
    for x, y in landmarks:
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        rows, columns = np.mgrid[top : min(height, int(y) + reach), left : min(width, int(x) + reach)]
        photo[rows, columns] += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat((photo.clip(0, 1) * 250).round().astype(np.uint8)[..., None], 3, axis=2)


def _blob_centres(face: np.ndarray, reach: int = 12) -> np.ndarray:
    centres = []
    for x, y in TEMPLATE.round().astype(int):
        rows, columns = np.mgrid[y - reach : y + reach + 1, x - reach : x + reach + 1]
        weight = face[rows, columns, 1].astype(float)
        centres.append(((weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()))
    return np.array(centres)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.3, 12), angle=_ANGLES, x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5), odd=st.integers(0, 13))
def test_drawn_landmarks_come_to_lie_on_the_template(scale: float, angle: float, x: float, y: float, odd: int) -> None:
    # `scale` photo pixels for one pixel of the face. The photo's size is not a multiple of the shrinking factor.
    side = int(170 * scale) + 20 + odd
    middle = np.array([side / 2 + x, side / 2 + y])
    turn = _similarity(scale, angle, 0, 0)
    landmarks = _apply(turn, TEMPLATE - TEMPLATE.mean(axis=0)) + middle

    face = warp_face(_photo_with_blobs(landmarks, side, side + odd, sigma=max(2.5 * scale, 1.0)), landmarks)

    assert face.shape == (128, 128, 3)
    assert face.dtype == np.uint8
    np.testing.assert_allclose(_blob_centres(face), TEMPLATE, rtol=0, atol=0.12)


@pytest.mark.parametrize("scale", [3, 5, 12])
def test_shrinking_does_not_alias(scale: int) -> None:
    # The mean of n x n independent pixels varies n times less than they; sampled without averaging it stays as it is.
    side = 140 * scale
    photo = np.random.default_rng(0).integers(0, 2, (side, side, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    face = warp_face(photo, TEMPLATE * scale + scale)
    assert face.std() < 1.1 * photo.std() / scale
    assert abs(face.mean() - photo.mean()) < 1


def test_a_face_on_the_template_already_stays_as_it_is() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_face(photo, TEMPLATE), photo)


def test_shifted_by_whole_pixels_it_is_a_crop_and_black_beyond_the_photo() -> None:
    photo = np.random.default_rng(0).integers(1, 256, (150, 140, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_face(photo, TEMPLATE + np.array((7, 11))), photo[11:139, 7:135])
    outside = warp_face(photo, TEMPLATE - np.array((20, 30)))
    np.testing.assert_array_equal(outside[30:, 20:], photo[:98, :108])
    assert not outside[:30].any()
    assert not outside[:, :20].any()


# ------------------------------------------------------------------------------------------------- the centre crop


def _ramps(height: int, width: int) -> np.ndarray:
    """Red grows to the right and green downwards, from 0 at one edge of the photo to 255 at the other."""
    photo = np.zeros((height, width, 3))
    photo[:, :, 0] = (np.arange(width) + 0.5) / width * 255
    photo[:, :, 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    return photo.round().astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(250, 250), (256, 256), (64, 64), (41, 33), (300, 900), (1001, 613), (2600, 2599)]
)
def test_the_centre_crop_is_the_middle_of_the_shorter_side(height: int, width: int) -> None:
    face = center_crop(_ramps(height, width)).astype(float)
    side = 0.53 * min(height, width)  # written out: a change of it makes other stores
    place = ((np.arange(128) + 0.5) / 128 - 0.5) * side  # of the crop's pixel centres, from the photo's middle
    red = (width / 2 + place) / width * 255
    green = (height / 2 + place) / height * 255
    assert face.shape == (128, 128, 3)
    assert np.abs(face[:, :, 0] - red).max() <= 1.5
    assert np.abs(face[:, :, 1] - green[:, None]).max() <= 1.5
    # On the average the rounding of grey levels cancels, and an offset of a tenth of a pixel of the face would show.
    assert abs((face[:, :, 0] - red).mean()) < 0.1 * 255 * side / width / 128 + 0.15


@pytest.mark.parametrize(("height", "width"), [(250, 250), (64, 80), (37, 50), (700, 555)])
def test_the_centre_crop_of_a_mirrored_photo_is_the_mirrored_crop(height: int, width: int) -> None:
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 2)
    face = center_crop(photo).astype(int)
    assert np.abs(center_crop(photo[:, ::-1].copy())[:, ::-1] - face).max() <= 2
    assert np.abs(center_crop(photo[::-1].copy())[::-1] - face).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (2, 3), (5000, 4)])
def test_tiny_photos_have_a_centre_crop_too(height: int, width: int) -> None:
    face = center_crop(np.full((height, width, 3), 200, np.uint8))
    assert face.shape == (128, 128, 3)
    assert np.abs(face[64, 64].astype(int) - 200).max() <= 2


@pytest.mark.parametrize("side", [96, 112, 160, 224, 256, 400])
def test_the_edges_of_a_resized_aligned_face_are_not_darkened(side: int) -> None:
    face = np.full((side, side, 3), 200, np.uint8)
    np.testing.assert_array_equal(resize_aligned(face), np.full((FACE_SIZE, FACE_SIZE, 3), 200))
