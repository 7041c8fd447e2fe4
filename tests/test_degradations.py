"""Protects the ladder of degraded faces: what each rung does, and that it follows from seed and name alone."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from facegm.eval.degradations import (
    DEGRADED_SHARE,
    LADDER,
    SEVERITIES,
    STRENGTHS,
    Degradation,
    degrade,
    drawn_degradation,
)

KINDS = [*STRENGTHS]


def smooth_face(seed: int = 0, side: int = 128) -> np.ndarray:
    """Waves and some texture, in the middle of the grey levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side][..., None] / side
    waves = 128 + 50 * np.sin(2 * np.pi * (x * [2, 3, 1] + y * [1, 2, 4])) + rng.normal(0, 8, (side, side, 3))
    return np.asarray(np.clip(waves, 0, 255).astype(np.uint8))


def rung(kind: str, severity: int) -> Degradation:
    return next(one for one in LADDER if (one.kind, one.severity) == (kind, severity))


def test_the_ladder_has_each_kind_from_weak_to_strong() -> None:
    assert len(LADDER) == 5 * 4 == len(set(LADDER))
    for strengths in STRENGTHS.values():
        assert len(strengths) == SEVERITIES
        assert all(weak < strong for weak, strong in pairwise(strengths))


@pytest.mark.parametrize("one", LADDER, ids=str)
def test_a_rung_gives_8_bit_faces_and_leaves_its_input_alone(one: Degradation) -> None:
    face = smooth_face()
    before = face.copy()
    degraded = degrade(face, one, name="a/a_1.jpg", seed=0)
    assert degraded.shape == face.shape
    assert degraded.dtype == np.uint8
    assert np.array_equal(face, before)
    assert not np.array_equal(degraded, face)


def test_a_face_without_degradation_stays() -> None:
    face = smooth_face()
    assert np.array_equal(degrade(face, None, name="a", seed=0), face)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_down_the_ladder_moves_the_face_further(kind: str) -> None:
    face = smooth_face().astype(np.float64)
    for name in ("a", "b", "c"):
        steps = [degrade(smooth_face(), rung(kind, 1 + k), name=name, seed=0) for k in range(SEVERITIES)]
        changes = [np.abs(step - face).mean() for step in steps]
        assert all(weak < strong for weak, strong in pairwise(changes))


def test_blur_is_a_gaussian_of_that_width() -> None:
    face = smooth_face()
    for severity in range(1, SEVERITIES + 1):
        expected = face.astype(np.float64)
        for axis in (0, 1):
            expected = gaussian_filter1d(expected, STRENGTHS["blur"][severity - 1], axis=axis, mode="mirror")
        found = degrade(face, rung("blur", severity), name="a", seed=0)
        assert np.abs(found - expected).max() < 2  # OpenCV counts in fixed point, and cuts the Gaussian off


def test_downscaling_keeps_means_over_areas_and_nothing_finer() -> None:
    face = smooth_face()
    found = degrade(face, rung("downscaling", 2), name="a", seed=0).astype(np.float64)  # to 32x32
    areas, found_areas = (one.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3)) for one in (face, found))
    assert np.abs(areas - found_areas)[1:-1, 1:-1].max() < 20
    # along a row between two centres, bilinear interpolation is a straight line
    line = found[64, 2:126:4, 0] - 2 * found[64, 3:127:4, 0] + found[64, 4:128:4, 0]
    assert np.abs(line).max() <= 2


def test_noise_has_that_deviation_and_one_pattern_for_all_severities() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    first, second = (degrade(grey, rung("noise", k), name="a", seed=0).astype(np.float64) - 128 for k in (1, 2))
    assert first.std() == pytest.approx(STRENGTHS["noise"][0], rel=0.02)
    assert second.std() == pytest.approx(STRENGTHS["noise"][1], rel=0.02)
    assert abs(first.mean()) < 0.5
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99
    other = degrade(grey, rung("noise", 1), name="b", seed=0).astype(np.float64) - 128
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.05


def test_noise_is_clipped_and_does_not_wrap_around() -> None:
    for level in (0, 255):
        noisy = degrade(np.full((64, 64, 3), level, np.uint8), rung("noise", 1), name="a", seed=0)
        assert np.abs(noisy.astype(int) - level).max() < 128
        assert (noisy == level).mean() > 0.45


@given(st.text(max_size=20), st.integers(0, 1000))
def test_occlusion_covers_its_share_by_one_colour_and_grows_around_itself(name: str, seed: int) -> None:
    face = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)
    before = np.zeros((128, 128), bool)
    for severity in range(1, SEVERITIES + 1):
        found = degrade(face, rung("occlusion", severity), name=name, seed=seed)
        color = found[before][0] if before.any() else None
        changed = (found != face).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = np.zeros((128, 128), bool)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert box.mean() == pytest.approx(STRENGTHS["occlusion"][severity - 1], rel=0.03)
        assert (found[box] == found[box][0]).all(), "one colour"
        assert color is None or (found[box][0] == color).all(), "the same for all severities"
        assert not (before & ~box).any(), "it lies around the one before"
        before = box


def test_darkness_divides_and_rounds() -> None:
    face = smooth_face()
    for severity in range(1, SEVERITIES + 1):
        found = degrade(face, rung("darkness", severity), name="a", seed=0)
        assert np.array_equal(found, np.rint(face / STRENGTHS["darkness"][severity - 1]))


def test_chance_follows_from_seed_and_name_in_every_process() -> None:
    face = smooth_face()
    noisy = degrade(face, rung("noise", 1), name="a", seed=3)
    assert np.array_equal(noisy, degrade(face, rung("noise", 1), name="a", seed=3))
    assert not np.array_equal(noisy, degrade(face, rung("noise", 1), name="a", seed=4))
    code = "from facegm.eval.degradations import drawn_degradation as d; print([d(str(k), 5) for k in range(50)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str([drawn_degradation(str(k), 5) for k in range(50)])


def test_half_of_the_images_are_degraded_by_all_rungs_alike() -> None:
    drawn = [drawn_degradation(f"{k}.jpg", 0) for k in range(5_000)]
    found = [one for one in drawn if one is not None]
    assert len(found) / len(drawn) == pytest.approx(DEGRADED_SHARE, abs=0.028)  # four standard deviations
    counts = [found.count(one) for one in LADDER]
    assert min(counts) > 80, "125 are expected"
    assert max(counts) < 170
    assert drawn[:100] != [drawn_degradation(f"{k}.jpg", 1) for k in range(100)]
