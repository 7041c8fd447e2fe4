"""Protects the scores of a face's quality, each against its definition in a plain loop, in float64."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, spearmanr

from facegm.eval.quality_scores import (
    DENSITY,
    LIKELIHOOD,
    MEANINGS,
    MIRROR,
    NORM,
    PROBABILITY,
    SHARPNESS,
    MeasuredFaces,
    quality_scores,
    severity_correlation,
)

FACES, DIM, IDENTITIES = 7, 5, 4


def measured(seed: int = 0, offset: float = 0.0) -> MeasuredFaces:
    rng = np.random.default_rng(seed)
    face_side, mirrored_side = (offset + rng.normal(size=(2, FACES, DIM))).astype(np.float32)
    return MeasuredFaces(
        face_side=face_side,
        mirrored_side=mirrored_side,
        probability=rng.random(FACES),
        sharpness=100 * rng.random(FACES),
    )


@pytest.mark.parametrize("is_mirrored", [True, False])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_scores_are_what_they_are_said_to_be(is_mirrored: bool, offset: float) -> None:
    faces = measured(offset=offset)
    means = offset + np.random.default_rng(1).normal(size=(IDENTITIES, DIM))
    scores = quality_scores(faces, means, is_mirrored=is_mirrored)
    assert set(scores) == set(MEANINGS)
    for row in range(FACES):
        f, g = (side[row].astype(np.float64) for side in (faces.face_side, faces.mirrored_side))
        x = (f + g) / 2 if is_mirrored else f
        nearest = min(sum((x - mu) ** 2) for mu in means)
        assert scores[LIKELIHOOD][row] == pytest.approx(-nearest / 2, rel=1e-9)
        density = np.mean([multivariate_normal(mu, np.eye(DIM)).pdf(x) for mu in means])
        assert scores[DENSITY][row] == pytest.approx(math.log(density), rel=1e-9)
        assert scores[NORM][row] == pytest.approx(math.sqrt(sum(x * x)))
        assert scores[PROBABILITY][row] == faces.probability[row]
        assert scores[SHARPNESS][row] == faces.sharpness[row]
        cosine = sum(f * g) / math.sqrt(sum(f * f) * sum(g * g))
        assert scores[MIRROR][row] == pytest.approx(-math.sqrt(2 - 2 * cosine), abs=1e-7)


def test_without_means_there_is_no_likelihood() -> None:
    assert [*quality_scores(measured(), None, is_mirrored=True)] == [NORM, PROBABILITY, SHARPNESS, MIRROR]


def test_an_embedding_of_zeros_has_scores_too() -> None:
    faces = MeasuredFaces(
        face_side=np.zeros((1, 3), np.float32),
        mirrored_side=np.zeros((1, 3), np.float32),
        probability=np.zeros(1),
        sharpness=np.zeros(1),
    )
    scores = quality_scores(faces, np.zeros((2, 3)), is_mirrored=True)
    assert all(np.isfinite(values).all() for values in scores.values())


def test_correlation_with_severity_is_spearmans_of_each_image() -> None:
    scores = np.random.default_rng(0).integers(0, 4, (50, 5)).astype(float)
    scores = scores[scores.std(axis=1) > 0]
    expected = [spearmanr(row, np.arange(5)).statistic for row in scores]
    assert severity_correlation(scores) == pytest.approx(expected, abs=1e-12)
    assert severity_correlation(np.array([[5.0, 4, 2, 1, 0], [0, 1, 2, 3, 9]])) == pytest.approx([-1, 1])


def test_a_score_that_is_always_the_same_ranks_nothing() -> None:
    assert severity_correlation(np.full((3, 5), 0.7)).tolist() == [0, 0, 0]
