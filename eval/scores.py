"""Scores of pairs of embeddings, all as distances: small for one person, whatever is compared.

A score may learn from pairs, but from those of other folds than the one it is judged on. A similarity, such as a
log-likelihood ratio, enters as its negative.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int

from facegm.errors import FacegmError
from facegm.eval.pca import pca_by_fold
from facegm.eval.plda import Plda, fit_plda

_BLOCK = 256
"""Pairs compared at a time, few enough for a processor's cache."""


@runtime_checkable
class Score(Protocol):
    """A way to compare embeddings."""

    @property
    def name(self) -> str:
        """How reports call it."""

    def describe(self) -> dict[str, object]:
        """What it is, for JSON; stored with every number."""

    def distances_by_fold(
        self,
        embeddings_a: Float[np.ndarray, "pairs dim"],
        embeddings_b: Float[np.ndarray, "pairs dim"],
        fold: Int[np.ndarray, " pairs"],
    ) -> Iterator[Float64[np.ndarray, " pairs"]]:
        """Yield the distances of all pairs for each held-out fold in turn, under what was fitted without that fold.

        Args:
            embeddings_a: embedding of every pair's left image, mirror images already summed, not normalised.
            embeddings_b: embedding of every pair's right image.
            fold: fold of every pair, counted from 0, each with pairs.

        Raises:
            FacegmError: the embeddings say nothing about identity, or what is to be fitted cannot be.
        """


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The L2 distance (not squared), and what happens to the embeddings before it."""

    name: str
    """How reports call it."""
    normalise: bool
    """Scale every embedding to unit length first."""
    components: int | None
    """Principal components kept, at most the embedding's dimension; None for no PCA."""
    renormalise: bool
    """Scale to unit length again after PCA."""

    def describe(self) -> dict[str, object]:
        """Name and switches."""
        return asdict(self)

    def distances_by_fold(
        self,
        embeddings_a: Float[np.ndarray, "pairs dim"],
        embeddings_b: Float[np.ndarray, "pairs dim"],
        fold: Int[np.ndarray, " pairs"],
    ) -> Iterator[Float64[np.ndarray, " pairs"]]:
        """Yield the L2 distances of all pairs for each held-out fold.

        PCA is fitted on both sides of all other folds' pairs (an image in several pairs counts as often), centred and
        not whitened.
        """
        if self.components is None:
            distances = l2_distances(embeddings_a, embeddings_b, normalise=self.normalise)
            yield from (distances for _ in range(int(fold.max()) + 1))
            return
        vectors = np.concatenate([embeddings_a, embeddings_b], dtype=np.float64)
        if self.normalise:
            _scale_to_unit_length(vectors)
        pairs = len(fold)
        difference = vectors[:pairs] - vectors[pairs:]
        longest = 1.0 if self.normalise else float(_lengths(vectors).max())
        _check_spread(_lengths(difference), rounding=float(np.finfo(embeddings_a.dtype).eps) * longest)
        for mean, axes in pca_by_fold(vectors, np.concatenate([fold, fold]), self.components):
            if self.renormalise:
                projected = vectors @ axes - mean @ axes
                _scale_to_unit_length(projected)
                yield _lengths(projected[:pairs] - projected[pairs:])
            else:
                yield _lengths(difference @ axes)  # of differences the mean does not matter


PCA_64 = Variant(name="PCA 64", normalise=True, components=64, renormalise=False)
PCA_64_RENORMALISED = Variant(name="PCA 64, re-normalised", normalise=True, components=64, renormalise=True)
NO_PCA = Variant(name="no PCA", normalise=True, components=None, renormalise=False)
RAW = Variant(name="no PCA, not normalised (raw L2)", normalise=False, components=None, renormalise=False)
STANDARD_VARIANTS = (PCA_64, PCA_64_RENORMALISED, NO_PCA, RAW)
"""What every report shows, the primary one first: the authors do not re-normalise after PCA, insightface does."""


@dataclass(frozen=True)
class Cosine:
    """1 - cosine similarity, 0 to 2: half the squared L2 distance at unit length, ranking pairs as `NO_PCA`."""

    name: str = "cosine"

    def describe(self) -> dict[str, object]:
        """Name alone."""
        return asdict(self)

    def distances_by_fold(
        self,
        embeddings_a: Float[np.ndarray, "pairs dim"],
        embeddings_b: Float[np.ndarray, "pairs dim"],
        fold: Int[np.ndarray, " pairs"],
    ) -> Iterator[Float64[np.ndarray, " pairs"]]:
        """Yield 1 - cosine similarity of all pairs for each fold; nothing is fitted."""
        distances = l2_distances(embeddings_a, embeddings_b, normalise=True)
        cosine = distances**2 / 2  # exact also where the embeddings are so close that 1 - cosine rounds to 0
        yield from (cosine for _ in range(int(fold.max()) + 1))


@dataclass(frozen=True, eq=False)
class FoldPlda:
    """The negative log-likelihood ratio of a `Plda` that is fitted, after PCA, on the training folds' images.

    Each image counts once in the fit, however many pairs it is in: what one person has of equal embeddings is one
    image. No image takes part of a person who is also in the held-out fold; LFW's folds share none.
    """

    people_a: Int[np.ndarray, " pairs"]
    """Number of the person on every pair's left image."""
    people_b: Int[np.ndarray, " pairs"]
    components: int = 64
    """Principal components kept first: few people do not determine a covariance of hundreds of dimensions."""
    name: str = "PLDA, training folds"

    def describe(self) -> dict[str, object]:
        """Name and components."""
        return {"name": self.name, "components": self.components}

    def distances_by_fold(
        self,
        embeddings_a: Float[np.ndarray, "pairs dim"],
        embeddings_b: Float[np.ndarray, "pairs dim"],
        fold: Int[np.ndarray, " pairs"],
    ) -> Iterator[Float64[np.ndarray, " pairs"]]:
        """Yield the negative log-likelihood ratio of all pairs for each held-out fold."""
        l2_distances(embeddings_a, embeddings_b, normalise=False)  # refuses those that are constant
        vectors = np.concatenate([embeddings_a, embeddings_b])
        people = np.concatenate([self.people_a, self.people_b])
        if len(people) != len(vectors):
            raise FacegmError(f"PLDA: {len(vectors) // 2} pairs of embeddings, but people of {len(people) // 2} pairs")
        seen = {
            (person, vector.tobytes()): row for row, (person, vector) in enumerate(zip(people, vectors, strict=True))
        }
        images = np.array([*seen.values()])
        in_fold = np.concatenate([fold, fold])
        for held_out in range(int(fold.max()) + 1):
            training = images[~np.isin(people[images], people[in_fold == held_out])]
            plda = fit_plda(vectors[training], people[training], components=self.components)
            yield -plda.log_likelihood_ratio(embeddings_a, embeddings_b)


@dataclass(frozen=True, eq=False)
class FittedPlda:
    """The negative log-likelihood ratio of a `Plda` that is fitted on other people than those of the pairs."""

    plda: Plda
    name: str = "PLDA, other people"

    def describe(self) -> dict[str, object]:
        """Name, and on what it was fitted."""
        return {"name": self.name, "images": self.plda.images, "people": self.plda.people, "ridge": self.plda.ridge}

    def distances_by_fold(
        self,
        embeddings_a: Float[np.ndarray, "pairs dim"],
        embeddings_b: Float[np.ndarray, "pairs dim"],
        fold: Int[np.ndarray, " pairs"],
    ) -> Iterator[Float64[np.ndarray, " pairs"]]:
        """Yield the negative log-likelihood ratio of all pairs for each fold; nothing is fitted on them."""
        l2_distances(embeddings_a, embeddings_b, normalise=False)  # refuses those that are constant
        distances = -self.plda.log_likelihood_ratio(embeddings_a, embeddings_b)
        yield from (distances for _ in range(int(fold.max()) + 1))


def l2_distances(
    a: Float[np.ndarray, "pairs dim"], b: Float[np.ndarray, "pairs dim"], *, normalise: bool
) -> Float64[np.ndarray, " pairs"]:
    """L2 distance of every pair in float64; of embeddings at unit length where wanted.

    Raises:
        FacegmError: all distances agree to within the rounding of the embeddings' own precision.
    """
    distances = np.empty(len(a))
    longest = 1.0 if normalise else 0.0
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        left, right = a[rows].astype(np.float64), b[rows].astype(np.float64)
        if normalise:
            _scale_to_unit_length(left)
            _scale_to_unit_length(right)
        else:
            longest = max(longest, float(_lengths(left).max()), float(_lengths(right).max()))
        left -= right
        distances[rows] = _lengths(left)
    _check_spread(distances, rounding=float(np.finfo(a.dtype).eps) * longest)
    return distances


def _check_spread(distances: Float64[np.ndarray, " pairs"], *, rounding: float) -> None:
    if np.ptp(distances) <= rounding:
        raise FacegmError(
            f"embeddings: all {len(distances)} pairs have the same distance {distances[0]:.3g}, so they say nothing "
            "about identity; the model is untrained or has collapsed"
        )


def _lengths(vectors: Float64[np.ndarray, "vectors dim"]) -> Float64[np.ndarray, " vectors"]:
    return np.asarray(np.sqrt(np.einsum("vd,vd->v", vectors, vectors)))


def _scale_to_unit_length(vectors: Float64[np.ndarray, "vectors dim"]) -> None:
    """Scale every row to length 1, in place; a row of zeros has no direction and stays at the origin."""
    length = _lengths(vectors)
    vectors /= np.where(length > 0, length, 1)[:, None]
