"""Protects the map of embeddings: whose images are on it, that like ones lie together, the same way each time."""

from collections import Counter

import numpy as np
import pytest

from facegm.eval.reports.embedding_map import FEWEST_IMAGES, MOST_IMAGES, MOST_PEOPLE, embedding_map


def people(counts: list[int]) -> tuple[list[str], np.ndarray]:
    """Images of people who lie far apart, in any order and of any length."""
    rng = np.random.default_rng(0)
    names = [f"lfw/P{person:02d}/{number:04d}.jpg" for person, count in enumerate(counts) for number in range(count)]
    means = rng.normal(size=(len(counts), 32))
    vectors = means[[int(name[5:7]) for name in names]] + 0.1 * rng.normal(size=(len(names), 32))
    order = rng.permutation(len(names))
    return [names[i] for i in order], (vectors * rng.uniform(1, 9, (len(names), 1)))[order].astype(np.float32)


def test_those_with_most_images_lie_together() -> None:
    names, embeddings = people([4, 2, 18, 5, 1, 7, *[3] * 12])
    found = embedding_map(names, embeddings)
    assert found is not None
    assert dict(Counter(found.people)) == {
        "lfw/P02": MOST_IMAGES, "lfw/P05": 7, "lfw/P03": 5, "lfw/P00": 4, **{f"lfw/P{k:02d}": 3 for k in range(6, 14)},
    }  # fmt: skip
    assert len({*found.people}) == MOST_PEOPLE
    who = np.array(found.people)
    distances = np.linalg.norm(found.points[:, None] - found.points, axis=-1) + np.diag([np.inf] * len(who))
    assert np.mean(who[distances.argmin(axis=1)] == who) > 0.95
    again = embedding_map(names[::-1], embeddings[::-1])
    assert again is not None
    assert np.array_equal(again.points, found.points)


@pytest.mark.parametrize("counts", [[FEWEST_IMAGES, FEWEST_IMAGES - 1], [1] * 30])
def test_there_is_no_map_of_single_images(counts: list[int]) -> None:
    assert embedding_map(*people(counts)) is None


def test_images_that_are_all_alike_are_no_trouble() -> None:
    names, _ = people([3, 3])
    found = embedding_map(names, np.ones((6, 8), np.float32))
    assert found is not None
    assert np.isfinite(found.points).all()
