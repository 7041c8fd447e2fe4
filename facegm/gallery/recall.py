"""How much of what an exact search finds an approximate index finds, measured on a gallery's own samples."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from facegm.gallery.index import ExactIndex, Index

QUERIES = 100
"""Samples of which queries are made."""
PERTURBATION = 0.5
"""Length of what is added to a sample to make a query of it: two photos of a person often lie as far apart."""
NEAREST = 10
"""Vectors that are looked for."""

Block = tuple[Int64[np.ndarray, " vectors"], Float32[np.ndarray, "vectors dim"]]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Shares of the truly nearest vectors that an index finds."""

    at_1: float
    """Share of the queries whose nearest vector is the first that is found."""
    at_10: float
    """Share of the 10 nearest vectors that are among the 10 that are found, over all queries."""
    queries: int
    """Queries that were made."""

    def __str__(self) -> str:
        return f"recall {self.at_1:.4f} at 1, {self.at_10:.4f} at 10 ({self.queries} queries)"


def measured_recall(index: Index, samples: Float32[np.ndarray, "queries dim"], blocks: Iterable[Block]) -> Recall:
    """Search an index for some of its own vectors, slightly perturbed, and all of its vectors exactly.

    Args:
        index: holds at least `NEAREST` vectors.
        samples: some of them, at least one; `QUERIES` do.
        blocks: all of them as they are, with their ids.
    """
    queries = perturbed(samples, np.random.default_rng(0))
    _, truth = exactly_nearest(queries, blocks, NEAREST)
    return recall_of(index, queries, truth)


def perturbed(
    vectors: Float32[np.ndarray, "queries dim"], rng: np.random.Generator
) -> Float32[np.ndarray, "queries dim"]:
    """Queries that lie near to vectors: each gets a random vector of length `PERTURBATION`, and unit length again."""
    noise = rng.standard_normal(vectors.shape, np.float32)
    moved = vectors + PERTURBATION * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def exactly_nearest(
    queries: Float32[np.ndarray, "queries dim"], blocks: Iterable[Block], k: int
) -> tuple[Float64[np.ndarray, "queries found"], Int64[np.ndarray, "queries found"]]:
    """The `k` nearest of vectors that come in blocks, so that no more than one has to be in memory.

    Returns:
        L2 distances (not squared), ascending, and the vectors' ids.
    """
    distances, ids = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    for block_ids, vectors in blocks:
        index = ExactIndex(vectors.shape[1])
        index.add(block_ids, vectors)
        found = index.search(queries, k)
        distances, ids = np.concatenate([distances, found[0]], axis=1), np.concatenate([ids, found[1]], axis=1)
        order = np.lexsort((ids, distances))[:, :k]
        distances, ids = np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return distances, ids


def recall_of(
    index: Index, queries: Float32[np.ndarray, "queries dim"], truth: Int64[np.ndarray, "queries nearest"]
) -> Recall:
    """Compare what an index finds with the truth, which `exactly_nearest` finds.

    Args:
        index: holds the vectors that the truth was found among.
        queries: at least one.
        truth: the ids of the nearest vectors of each, the nearest first.
    """
    _, found = index.search(queries, truth.shape[1])
    among = (found[:, :, None] == truth[:, None, :]).any(axis=2)
    return Recall(at_1=float((found[:, 0] == truth[:, 0]).mean()), at_10=float(among.mean()), queries=len(queries))
