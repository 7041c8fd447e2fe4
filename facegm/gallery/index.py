"""The nearest of many embeddings: what a gallery asks of an index, and an exact one in memory."""

from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64

QUERIES = 256
"""Queries that are compared together: enough that each block of vectors is read from memory once for many."""
BLOCK = 4096
"""Vectors that are compared at a time: the similarities to `QUERIES` of them stay in a processor's cache."""


class Index(Protocol):
    """Finds the nearest of vectors that have ids. All vectors have unit L2 norm, and one length."""

    is_exact: bool
    """Whether it finds the nearest ones without fail; it may cease to be so as vectors come."""

    def ids(self) -> Int64[np.ndarray, " vectors"]:
        """The ids of all vectors that are held, in any order."""

    def add(self, ids: Int64[np.ndarray, " vectors"], vectors: Float32[np.ndarray, "vectors dim"]) -> None:
        """Hold more vectors; none of the ids is held yet."""

    def remove(self, ids: Int64[np.ndarray, " vectors"]) -> None:
        """Hold some vectors no longer; all of the ids are held."""

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int
    ) -> tuple[Float64[np.ndarray, "queries found"], Int64[np.ndarray, "queries found"]]:
        """Find the `k` nearest vectors of each query; all of them where fewer are held.

        Returns:
            L2 distances (not squared), ascending, and the vectors' ids.
        """


def slack(dim: int) -> np.float32:
    """By how much less than the largest product in float32 that of the nearest vector can be; all have unit length.

    A product is off by less than dim * eps / 2, however it is summed (Higham 2002, 3.5), and both of two that are
    compared may be; as much again for lengths that are off by rounding.
    """
    return np.float32(2 * dim * np.finfo(np.float32).eps)


class ExactIndex:
    """An `Index` that compares with every vector, by products of matrices in memory.

    The distances are those of float64, and of vectors at the same distance the one with the smallest id is first: the
    products, in float32, only say which vectors can be among the nearest.

    Args:
        dim: length of a vector.
    """

    is_exact = True

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((0, dim), np.float32)
        self._ids = np.empty(0, np.int64)
        self._count = 0
        self._slack = slack(dim)

    def ids(self) -> Int64[np.ndarray, " vectors"]:
        """The ids of all vectors that are held."""
        return self._ids[: self._count].copy()

    def add(self, ids: Int64[np.ndarray, " vectors"], vectors: Float32[np.ndarray, "vectors dim"]) -> None:
        """Hold more vectors; none of the ids is held yet."""
        count = self._count + len(ids)
        if count > len(self._ids):  # by half as much again, so that one by one takes no time that grows with the square
            room = max(count, len(self._ids) * 3 // 2) - len(self._ids)
            self._vectors = np.concatenate([self._vectors, np.empty((room, self._vectors.shape[1]), np.float32)])
            self._ids = np.concatenate([self._ids, np.empty(room, np.int64)])
        self._vectors[self._count : count], self._ids[self._count : count] = vectors, ids
        self._count = count

    def remove(self, ids: Int64[np.ndarray, " vectors"]) -> None:
        """Hold some vectors no longer; all of the ids are held."""
        stays = ~np.isin(self.ids(), ids)
        count = int(stays.sum())
        self._vectors[:count] = self._vectors[: self._count][stays]
        self._ids[:count] = self._ids[: self._count][stays]
        self._count = count

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int
    ) -> tuple[Float64[np.ndarray, "queries found"], Int64[np.ndarray, "queries found"]]:
        """Find the `k` nearest vectors of each query; all of them where fewer are held.

        Returns:
            L2 distances (not squared), ascending, and the vectors' ids.
        """
        found = min(k, self._count)
        distances, ids = np.empty((len(queries), found)), np.empty((len(queries), found), np.int64)
        if found:
            together = QUERIES if found <= BLOCK else 1  # every vector is a candidate there
            for start in range(0, len(queries), together):
                part = queries[start : start + together]
                for number, rows in enumerate(self._candidates(part, found)):
                    exact = np.linalg.norm(self._vectors[rows].astype(np.float64) - part[number], axis=1)
                    nearest = np.lexsort((self._ids[rows], exact))[:found]
                    distances[start + number], ids[start + number] = exact[nearest], self._ids[rows[nearest]]
        return distances, ids

    def _candidates(self, queries: Float32[np.ndarray, "queries dim"], k: int) -> list[Int64[np.ndarray, " rows"]]:
        """For each query the rows that can be among its `k` nearest, whatever the products are off by."""
        floor = np.full(len(queries), -np.inf, np.float32)
        parts = []
        for start in range(0, self._count, BLOCK):
            similarity = queries @ self._vectors[start : min(start + BLOCK, self._count)].T
            if k <= similarity.shape[1]:
                kth = np.partition(similarity, -k, axis=1)[:, -k]
                floor = np.maximum(floor, kth - self._slack)
            query, column = np.nonzero(similarity >= floor[:, None])
            parts.append((query, column + start, similarity[query, column]))
        query, row, similar = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        possible = similar >= floor[query]  # by now it is higher than it was at the first blocks
        query, row = query[possible], row[possible]
        order = np.argsort(query, kind="stable")
        return np.split(row[order], np.searchsorted(query[order], np.arange(1, len(queries))))
