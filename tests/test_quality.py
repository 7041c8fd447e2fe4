"""Protects the numbers that judge an aligned face: against independent computations and known truth."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.ndimage import laplace

from facegm.align.duplicates import NEAR_DUPLICATE_BITS
from facegm.align.face import TEMPLATE, alignment_residual, contrast, perceptual_hash, profile, sharpness

HEAD = np.array([(-31, -36, 0), (31, -36, 0), (0, 0, -31), (-25, 36, 0), (25, 36, 0)], float)
"""Eyes, nose tip and mouth corners of a head in millimetres; the nose stands out by half the distance of the eyes."""


def _turned(degrees: float) -> np.ndarray:
    """What a far camera sees of the head, turned to the side."""
    angle = np.radians(degrees)
    x, y, z = HEAD.T
    return np.column_stack([x * np.cos(angle) + z * np.sin(angle), y])


def _moved(points: np.ndarray, *, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(scale * points @ rotation.T + shift)


def _face(seed: int) -> np.ndarray:
    """A smooth random picture, as rich in low frequencies as a face."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(20, 235, (12, 12, 3)), (128, 128), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(coarse + rng.normal(0, 3, coarse.shape), 0, 255).astype(np.uint8))


def _luminance(face: np.ndarray) -> np.ndarray:
    return np.asarray(np.round(face @ np.array([0.299, 0.587, 0.114])))


def _bits(digits: str) -> np.ndarray:
    return np.array([int(bit) for bit in f"{int(digits, 16):0256b}"])


def _distance(a: np.ndarray, b: np.ndarray) -> int:
    return int((_bits(perceptual_hash(a)) != _bits(perceptual_hash(b))).sum())


# ------------------------------------------------------------------------------------------------- landmarks


@pytest.mark.parametrize("degrees", [0, 10, 30, 45, 60, 80, 89])
def test_profile_is_the_share_of_a_quarter_turn_to_either_side(degrees: float) -> None:
    for side in (1, -1):
        assert profile(_turned(side * degrees)) == pytest.approx(
            degrees / 90, abs=0.005
        )  # the template is not quite symmetric


def test_eyes_that_fall_together_are_a_full_profile() -> None:
    assert profile(_turned(90)) == pytest.approx(1)


@settings(deadline=None)
@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.1, 10),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    turn=st.floats(-85, 85),
)
def test_roll_scale_and_place_in_the_photo_change_nothing(
    degrees: float, scale: float, shift: tuple[float, float], turn: float
) -> None:
    points = _turned(turn)
    moved = _moved(points, degrees=degrees, scale=scale, shift=shift)
    assert profile(moved) == pytest.approx(profile(points), abs=1e-6)
    assert alignment_residual(moved) == pytest.approx(alignment_residual(points), abs=1e-6)


def test_residual_of_the_template_itself_is_nothing() -> None:
    assert alignment_residual(_moved(TEMPLATE, degrees=20, scale=3, shift=(100, 50))) == pytest.approx(0, abs=1e-9)


def test_residual_is_the_least_distance_that_any_similarity_reaches() -> None:
    # OpenCV's own fit of a similarity: of five points within its tolerance none is an outlier.
    landmarks = TEMPLATE + np.random.default_rng(0).normal(0, 3, (5, 2))
    transform, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE, ransacReprojThreshold=1000, refineIters=1000)
    distances = np.linalg.norm(cv2.transform(landmarks[None], transform)[0] - TEMPLATE, axis=1)
    assert alignment_residual(landmarks) == pytest.approx(np.sqrt((distances**2).mean()), abs=1e-4)


@pytest.mark.parametrize("landmarks", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_impossible_landmarks_are_refused(landmarks: np.ndarray) -> None:
    for measure in (alignment_residual, profile):
        with pytest.raises(ValueError, match="landmarks"):
            measure(landmarks)


# -------------------------------------------------------------------------------------------------- pictures


def test_sharpness_and_contrast_are_those_of_the_luminance() -> None:
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    grey = _luminance(face)
    assert contrast(face) == pytest.approx(grey.std(), rel=1e-3)
    assert sharpness(face) == pytest.approx(laplace(grey, mode="mirror").var(), rel=1e-3)


def test_blur_lowers_sharpness_and_a_flat_face_has_neither() -> None:
    face = _face(0)
    assert sharpness(cv2.GaussianBlur(face, (0, 0), 2)) < sharpness(face) / 2
    flat = np.full((128, 128, 3), 90, np.uint8)
    assert (sharpness(flat), contrast(flat)) == (0, 0)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_hash_is_the_signs_of_the_low_frequencies(seed: int) -> None:
    grey = np.asarray(cv2.cvtColor(_face(seed), cv2.COLOR_RGB2GRAY), float)
    small = np.floor(grey.reshape(64, 2, 64, 2).mean(axis=(1, 3)) + 0.5)
    frequencies = dctn(small, norm="ortho")[1:17, 1:17].ravel()
    clear = abs(frequencies - np.median(frequencies)) > 1.5  # beyond what rounding to grey levels can turn
    expected = frequencies > np.median(frequencies)
    found = _bits(perceptual_hash(_face(seed)))
    assert np.array_equal(found[clear], expected[clear])
    assert found.sum() == 128


@pytest.mark.parametrize(
    "change",
    [
        lambda face: cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR),
        lambda face: cv2.resize(cv2.resize(face, (102, 102), interpolation=cv2.INTER_AREA), (128, 128)),
        lambda face: np.clip(face * 1.15 + 10, 0, 255).astype(np.uint8),
        lambda face: cv2.warpAffine(face, np.array([[1.0, 0, 1], [0, 1, 0]]), (128, 128)),
    ],
    ids=["JPEG", "scaled", "brightened", "shifted"],
)
def test_changed_copies_are_near_and_other_pictures_far(change: Callable[[np.ndarray], np.ndarray]) -> None:
    faces = [_face(seed) for seed in range(20)]
    assert max(_distance(face, change(face)) for face in faces) <= NEAR_DUPLICATE_BITS
    assert min(_distance(a, b) for a, b in pairwise(faces)) > 2 * NEAR_DUPLICATE_BITS


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), other=st.integers(0, 10_000))
def test_a_hash_is_64_hex_digits_and_the_same_each_time(seed: int, other: int) -> None:
    assume(seed != other)
    digits = perceptual_hash(_face(seed))
    assert len(digits) == 64
    assert digits == perceptual_hash(_face(seed)) != perceptual_hash(_face(other))
