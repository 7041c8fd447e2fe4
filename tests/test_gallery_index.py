"""Exact search: the same neighbours, distances and order of ties as a plain search in float64, whatever is held."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.gallery import index as index_module
from facegm.gallery.index import ExactIndex

DIM = 8


def unit(random: np.random.Generator, count: int, dim: int = DIM) -> np.ndarray:
    vectors = random.standard_normal((count, dim))
    return np.asarray((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


def plain_search(held: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[tuple[float, int]]:
    """Distance and id, one vector after the other."""
    differences = {key: vector.astype(np.float64) - query.astype(np.float64) for key, vector in held.items()}
    return sorted((float(np.sqrt((difference**2).sum())), key) for key, difference in differences.items())[:k]


def assert_equals_plain(index: ExactIndex, held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> None:
    distances, ids = index.search(queries, k)
    assert distances.shape == ids.shape == (len(queries), min(k, len(held)))
    for number, query in enumerate(queries):
        expected = plain_search(held, query, k)
        assert ids[number].tolist() == [key for _, key in expected]
        np.testing.assert_allclose(distances[number], [distance for distance, _ in expected], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", [1, 3, 7, 8, 9, 300, 1000])
def test_equals_a_plain_search_across_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BLOCK", 8)
    monkeypatch.setattr(index_module, "QUERIES", 3)
    random = np.random.default_rng(0)
    vectors = unit(random, 300)
    vectors[100:140] = vectors[:40]  # ties between blocks
    vectors[200:220] = vectors[7]  # and within one
    ids = random.permutation(1000)[:300]
    queries = np.concatenate([unit(random, 5), vectors[[3, 7, 250]]])
    index = ExactIndex(DIM)
    index.add(ids, vectors)
    assert_equals_plain(index, dict(zip(ids.tolist(), vectors, strict=True)), queries, k)


def test_near_ties_are_told_apart_beyond_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors so close to each other that products in float32 order them by their rounding."""
    monkeypatch.setattr(index_module, "BLOCK", 16)
    random = np.random.default_rng(1)
    centre = unit(random, 1, 512)
    near = centre + 1e-5 * unit(random, 200, 512)
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    index = ExactIndex(512)
    index.add(np.arange(200), vectors)
    assert_equals_plain(index, dict(enumerate(vectors)), centre, 10)


def test_an_empty_index_finds_nothing() -> None:
    distances, ids = ExactIndex(DIM).search(unit(np.random.default_rng(0), 4), 5)
    assert distances.shape == ids.shape == (4, 0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12), st.integers(0, 2**16))
def test_what_was_added_and_not_removed_is_found(steps: list[tuple[bool, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    index, held, coming = ExactIndex(DIM), dict[int, np.ndarray](), 0
    for is_added, count in steps:
        if is_added:
            vectors, ids = unit(random, count), np.arange(coming, coming + count)
            index.add(ids, vectors)
            held |= dict(zip(ids.tolist(), vectors, strict=True))
            coming += count
        elif held:
            gone = random.choice([*held], min(count, len(held)), replace=False)
            index.remove(gone)
            for key in gone.tolist():
                del held[key]
        assert sorted(index.ids().tolist()) == sorted(held)
        assert_equals_plain(index, held, unit(random, 3), 4)
