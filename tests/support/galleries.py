"""Galleries of drawn people: embeddings that lie around a centre for each."""

from pathlib import Path

import numpy as np

from facegm.embedding.contract import EmbeddingContract
from facegm.gallery.gallery import Gallery

DIM = 16
CONTRACT = EmbeddingContract(weights="aa" * 32, preprocessing="bb" * 32, dim=DIM)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray((vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32))


def drawn(seed: int, count: int = 1, *, around: np.ndarray | None = None, spread: float = 0.1) -> np.ndarray:
    """So many embeddings: anywhere, or around one."""
    random = np.random.default_rng(seed).standard_normal((count, DIM))
    return unit(random if around is None else around + spread * unit(random))


def at_distance(distance: float, start: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """The unit vector at an L2 distance from another, on the great circle through a third."""
    start, towards = start.astype(np.float64).ravel(), towards.astype(np.float64).ravel()
    across = towards - (towards @ start) * start
    angle = 2 * np.arcsin(distance / 2)
    return np.asarray((np.cos(angle) * start + np.sin(angle) * across / np.linalg.norm(across)).astype(np.float32))


def new_gallery(folder: Path) -> Gallery:
    return Gallery.create(folder / "people.gallery", CONTRACT)
