"""Protects search by FAISS: what it finds, what a byte a number costs, and the recall that is said of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from galleries import CONTRACT, drawn, new_gallery
from numpy.random import Generator

from facegm.errors import FacegmError, UsageError
from facegm.gallery import faiss_index
from facegm.gallery.engines import INDEXES
from facegm.gallery.faiss_index import MARGIN, FaissIndex, FaissKind
from facegm.gallery.gallery import Gallery
from facegm.gallery.index import ExactIndex
from facegm.gallery.recall import PERTURBATION, exactly_nearest, perturbed, recall_of

DIM = 24
SEED = 3


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(SEED)


def unit_vectors(rng: Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, DIM)) * np.linspace(1, 3, DIM)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def naive_search(ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """In float64, one pair at a time."""
    found = []
    for query in queries.astype(np.float64):
        distances = [float(np.sqrt(((vector - query) ** 2).sum())) for vector in vectors.astype(np.float64)]
        found.append(sorted(zip(distances, ids.tolist(), strict=True))[:k])
    return np.array([[d for d, _ in row] for row in found]), np.array([[i for _, i in row] for row in found])


def filled(kind: FaissKind, ids: np.ndarray, vectors: np.ndarray, parts: int = 3) -> FaissIndex:
    index = FaissIndex(kind, DIM)
    for some, of_them in zip(np.array_split(ids, parts), np.array_split(vectors, parts), strict=True):
        index.add(some, of_them)
    return index


@pytest.mark.parametrize("kind", ["flat", "sq8"])
@pytest.mark.parametrize("queries", [1, 40])  # FAISS has one way for few queries and one for many
def test_few_vectors_are_compared_exactly(kind: FaissKind, queries: int, rng: Generator) -> None:
    ids, vectors, asked = rng.permutation(900)[:200] + 2**40, unit_vectors(rng, 200), unit_vectors(rng, queries)
    index = filled(kind, ids, vectors)
    gone = ids[::3]
    index.remove(gone)
    stay = ~np.isin(ids, gone)

    distances, found = index.search(asked, 7)
    expected, nearest = naive_search(ids[stay], vectors[stay], asked, 7)
    np.testing.assert_array_equal(found, nearest)
    np.testing.assert_allclose(distances, expected, atol=1e-6)
    assert index.is_exact
    assert set(index.ids().tolist()) == set(ids[stay].tolist())


def test_sq8_holds_a_byte_a_number_in_the_range_of_the_first_vectors(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "TRAINED_ON", 150)
    ids, vectors, asked = np.arange(300) * 5, unit_vectors(rng, 300), unit_vectors(rng, 30)
    index = filled("sq8", ids, vectors)  # 100 are held exactly when the 200th makes it a matter of bytes
    index.remove(ids[:50])
    assert not index.is_exact
    assert index.nbytes() == 250 * (DIM + 8)

    known = vectors[:200].astype(np.float64)
    low, high = known.min(axis=0), known.max(axis=0)
    low, span = low - MARGIN * (high - low), (1 + 2 * MARGIN) * (high - low)
    codes = np.floor(255 * np.clip((vectors - low) / span, 0, 1))
    expected, nearest = naive_search(ids[50:], (low + (codes + 0.5) / 255 * span)[50:], asked, 3)
    distances, found = index.search(asked, 3)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_all_are_found_where_fewer_are_held_than_asked_for(kind: FaissKind, rng: Generator) -> None:
    index, queries = FaissIndex(kind, DIM), unit_vectors(rng, 2)
    assert [part.shape for part in index.search(queries, 5)] == [(2, 0), (2, 0)]
    index.add(np.array([8, 4]), queries)
    distances, found = index.search(queries, 5)
    np.testing.assert_array_equal(found, [[8, 4], [4, 8]])
    assert distances[:, 0].max() < 1e-3
    index.remove(np.array([8, 4]))
    assert index.ids().size == 0


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(FacegmError, match=r'pip install "facegm\[faiss\]"'):
        FaissIndex("flat", DIM)


def test_the_truth_is_found_in_blocks(rng: Generator) -> None:
    ids, vectors, queries = rng.permutation(90), unit_vectors(rng, 90), unit_vectors(rng, 4)
    blocks = [(ids[a:b], vectors[a:b]) for a, b in ((0, 4), (4, 40), (40, 90))]
    distances, found = exactly_nearest(queries, iter(blocks), 6)
    expected, nearest = naive_search(ids, vectors, queries, 6)
    np.testing.assert_array_equal(found, nearest)
    np.testing.assert_allclose(distances, expected, atol=1e-12)


def test_recall_counts_what_is_found() -> None:
    class Fixed:
        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            assert (len(queries), k) == (2, 4)
            return np.zeros((2, 4)), np.array([[1, 2, 3, 9], [6, 5, 4, 0]])

    truth = np.array([[1, 3, 2, 4], [5, 6, 7, 8]])
    recall = recall_of(Fixed(), np.zeros((2, DIM), np.float32), truth)  # type: ignore[arg-type]
    assert (recall.at_1, recall.at_10, recall.queries) == (0.5, 5 / 8, 2)


def test_what_is_said_of_sq8_is_how_it_compares_with_the_exact_search(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "TRAINED_ON", 100)
    ids, vectors = np.arange(2000), unit_vectors(rng, 2000)
    exact = ExactIndex(DIM)
    exact.add(ids, vectors)
    queries = perturbed(vectors[:200], rng)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    assert np.median(np.linalg.norm(queries - vectors[:200], axis=1)) == pytest.approx(PERTURBATION, rel=0.1)
    _, truth = exact.search(queries, 10)
    recall = recall_of(filled("sq8", ids, vectors), queries, truth)
    _, found = filled("sq8", ids, vectors).search(queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    assert recall.at_10 == pytest.approx(sum(shared) / 2000)
    assert 0.9 < recall.at_10 < 1
    assert recall_of(exact, queries, truth).at_1 == 1


def test_a_gallery_finds_the_same_people_by_any_index(tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery:
        for seed in range(30):
            gallery.enroll(f"person {seed}", drawn(seed, 1 + seed % 4), strict=False)
        queries = drawn(99, 20)
        expected = [[(match.name, match.sample_id) for match in matches] for matches in gallery.search(queries, k=4)]
    for name in INDEXES:
        with Gallery.open(tmp_path / "people.gallery", index=name) as gallery:
            for _ in range(2):
                found = gallery.search(queries, k=4)
                assert [[(match.name, match.sample_id) for match in matches] for matches in found] == expected
                gallery.enroll("passing", queries, strict=False)
                assert {matches[0].name for matches in gallery.search(queries)} == {"passing"}
                gallery.remove("passing")
            assert gallery.recall is None


def test_a_gallery_measures_the_recall_of_its_index_when_that_becomes_approximate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of people whose samples lie close together: a byte a number cannot tell the tenth from the eleventh."""
    caplog.set_level("INFO")
    monkeypatch.setattr(faiss_index, "TRAINED_ON", 200)
    with Gallery.create(tmp_path / "people.gallery", CONTRACT, index="faiss-sq8") as gallery:
        for seed in range(6):
            gallery.enroll(f"person {seed}", drawn(seed, 60, around=drawn(seed), spread=0.02), strict=False)
            gallery.search(drawn(0))
            assert (gallery.recall is None) == (seed < 3)
        assert gallery.recall is not None
        assert gallery.recall.queries == 100
        assert 0.5 < gallery.recall.at_10 < 0.99
        assert [str(gallery.recall) in message for message in caplog.messages] == [True]


def test_an_index_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="faiss-pq, must be one of exact, faiss-flat, faiss-sq8"):
        Gallery.create(tmp_path / "people.gallery", CONTRACT, index="faiss-pq")  # type: ignore[arg-type]


def test_faiss_says_nothing_of_itself() -> None:
    """It logs which of its builds it loads, when a process first does so; a command has its log on the output."""
    code = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from facegm.gallery.faiss_index import FaissIndex
FaissIndex("flat", 3)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == ""
