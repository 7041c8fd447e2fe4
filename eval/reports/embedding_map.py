"""A map of embeddings in the plane: the people with most images, by t-SNE with a fixed seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from threadpoolctl import threadpool_limits

MOST_PEOPLE, MOST_IMAGES = 12, 15
"""People shown, and images of each: few enough to be told apart, and for t-SNE to take a second."""
FEWEST_IMAGES = 3
"""Of a person who is shown: what lies together has to be several points."""
_PERPLEXITY = 10.0
"""Points that count as neighbours, about as many as a person has."""
_SPREAD = 1e-4
"""Of the points at first, which lie as on their principal axes, as scikit-learn has it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingMap:
    """Where images lie. Near is like; distances between people that are far apart say little."""

    people: tuple[str, ...]
    """Person of every point; those of one person follow each other."""
    points: Float64[np.ndarray, "points 2"]


def embedding_map(names: Sequence[str], embeddings: Float[np.ndarray, "images dim"]) -> EmbeddingMap | None:
    """Lay out the images of the people who have most.

    Args:
        names: image names, whose folders are the people.
        embeddings: one for each, of any length; directions are laid out.

    Returns:
        None where fewer than two people have `FEWEST_IMAGES` images.
    """
    rows_of: dict[str, list[int]] = {}
    for row in sorted(range(len(names)), key=names.__getitem__):  # in whatever order they come
        rows_of.setdefault(names[row].rpartition("/")[0], []).append(row)
    chosen = [person for person, rows in rows_of.items() if len(rows) >= FEWEST_IMAGES]
    chosen.sort(key=lambda person: (-len(rows_of[person]), person))
    if len(chosen) < 2:
        return None
    rows_of = {person: rows_of[person][:MOST_IMAGES] for person in chosen[:MOST_PEOPLE]}
    vectors = embeddings[[row for rows in rows_of.values() for row in rows]].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return EmbeddingMap(
        people=tuple(person for person, rows in rows_of.items() for _ in rows),
        points=_laid_out(vectors / np.where(lengths > 0, lengths, 1)),
    )


def _laid_out(vectors: Float64[np.ndarray, "points dim"]) -> Float64[np.ndarray, "points 2"]:
    from sklearn.manifold import TSNE

    centred = vectors - vectors.mean(axis=0)
    with threadpool_limits(1):  # the same points every time
        left, length, _ = np.linalg.svd(centred, full_matrices=False)
        start = (left[:, :2] * length[:2]).astype(np.float32)
        # Of points that are all alike it is 0, and NaN in place of them would end the process.
        start *= _SPREAD / max(float(start[:, 0].std()), float(np.finfo(np.float32).tiny))
        layout = TSNE(perplexity=min(_PERPLEXITY, (len(vectors) - 1) / 3), init=start, random_state=0)
        return np.asarray(layout.fit_transform(vectors), np.float64)
