"""The ten-fold verification protocol: PCA and threshold from the training folds, accuracy on the held-out fold."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from facegm.errors import FacegmError
from facegm.eval.metrics import accuracy_at, best_threshold


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What happens to the embeddings before their L2 distance; stored with every number."""

    name: str
    """How reports call it."""
    normalise: bool
    """Scale every embedding to unit length first."""
    components: int | None
    """Principal components kept, at most the embedding's dimension; None for no PCA."""
    renormalise: bool
    """Scale to unit length again after PCA."""


PCA_64 = Variant(name="PCA 64", normalise=True, components=64, renormalise=False)
PCA_64_RENORMALISED = Variant(name="PCA 64, re-normalised", normalise=True, components=64, renormalise=True)
NO_PCA = Variant(name="no PCA", normalise=True, components=None, renormalise=False)
RAW = Variant(name="no PCA, not normalised (raw L2)", normalise=False, components=None, renormalise=False)
STANDARD_VARIANTS = (PCA_64, PCA_64_RENORMALISED, NO_PCA, RAW)
"""What every report shows, the primary one first: the authors do not re-normalise after PCA, insightface does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """Outcome of the protocol for one variant."""

    variant: Variant
    accuracy: float
    """Mean over the folds of the held-out accuracy."""
    standard_error: float
    """Standard deviation of the folds' accuracies (ddof 1) over the square root of their number."""
    fold_accuracy: Float64[np.ndarray, " folds"]
    """Accuracy on every held-out fold."""
    fold_threshold: Float64[np.ndarray, " folds"]
    """Threshold (L2 distance) that was best on the other folds."""
    oracle_accuracy: float
    """Accuracy of the one threshold chosen on the very pairs it is scored on: too good, never the result."""
    distances: Float64[np.ndarray, " pairs"]
    """Out-of-fold L2 distances: each pair's under the PCA that did not see the pair's fold."""


def verify(
    embeddings_a: Float[np.ndarray, "pairs dim"],
    embeddings_b: Float[np.ndarray, "pairs dim"],
    same: Bool[np.ndarray, " pairs"],
    fold: Int[np.ndarray, " pairs"],
    *,
    variant: Variant,
) -> Verification:
    """Score embeddings by cross-validation over the given folds (LFW, unrestricted, labeled outside data).

    In each fold, PCA is fitted on both sides of all other folds' pairs (an image in several pairs counts as often),
    centred and not whitened, and the threshold is the most accurate one on those folds. Computed in float64.

    Args:
        embeddings_a: embedding of every pair's left image, mirror images already summed.
        embeddings_b: embedding of every pair's right image.
        same: True where a pair shows one person.
        fold: fold of every pair, counted from 0.
        variant: normalisation and PCA before the distance.

    Raises:
        FacegmError: shapes disagree, embeddings are constant or not finite, there are fewer than 2 folds, or a fold
            lacks pairs of one kind.
    """
    _check_embeddings(embeddings_a, embeddings_b)
    _check_folds(len(embeddings_a), same, fold)
    a, b = embeddings_a.astype(np.float64), embeddings_b.astype(np.float64)
    if variant.normalise:
        a, b = _unit_length(a), _unit_length(b)
    _check_spread(a, b, rounding=float(np.finfo(embeddings_a.dtype).eps))

    folds = int(fold.max()) + 1
    out_of_fold = np.empty(len(fold))
    fold_accuracy, fold_threshold = np.empty(folds), np.empty(folds)
    for held_out, distances in enumerate(_distances_by_fold(a, b, fold, variant)):
        test = fold == held_out
        threshold = best_threshold(distances[~test], same[~test])
        fold_threshold[held_out] = threshold
        fold_accuracy[held_out] = accuracy_at(threshold, distances[test], same[test])
        out_of_fold[test] = distances[test]
    return Verification(
        variant=variant,
        accuracy=float(fold_accuracy.mean()),
        standard_error=float(fold_accuracy.std(ddof=1) / np.sqrt(folds)),
        fold_accuracy=fold_accuracy,
        fold_threshold=fold_threshold,
        oracle_accuracy=accuracy_at(best_threshold(out_of_fold, same), out_of_fold, same),
        distances=out_of_fold,
    )


def _unit_length(vectors: Float64[np.ndarray, "vectors dim"]) -> Float64[np.ndarray, "vectors dim"]:
    """Scale every row to length 1; a row of zeros has no direction and stays at the origin."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _distances_by_fold(
    a: Float64[np.ndarray, "pairs dim"],
    b: Float64[np.ndarray, "pairs dim"],
    fold: Int[np.ndarray, " pairs"],
    variant: Variant,
) -> Iterator[Float64[np.ndarray, " pairs"]]:
    """Yield every pair's L2 distance for each held-out fold in turn, under the PCA of the other folds."""
    if variant.components is None:
        distances = np.linalg.norm(a - b, axis=1)
        yield from (distances for _ in range(int(fold.max()) + 1))
        return
    for mean, axes in pca_by_fold(np.concatenate([a, b]), np.concatenate([fold, fold]), variant.components):
        projected_a, projected_b = (a - mean) @ axes, (b - mean) @ axes
        if variant.renormalise:
            projected_a, projected_b = _unit_length(projected_a), _unit_length(projected_b)
        yield np.linalg.norm(projected_a - projected_b, axis=1)


def pca_by_fold(
    vectors: Float64[np.ndarray, "vectors dim"], fold: Int[np.ndarray, " vectors"], components: int
) -> Iterator[tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim components"]]]:
    """Yield mean and principal axes of all vectors outside each fold: scikit-learn's PCA up to the axes' signs.

    `verify` fits it on both sides of all pairs, normalised where the variant says so.

    Every fold's scatter about its own mean is computed once; those of the training folds, and only those, are then
    added up (Chan, Golub & LeVeque, 1979). Axes without variance, whose direction is arbitrary, are left out.
    """
    members = [vectors[fold == held_out] for held_out in range(int(fold.max()) + 1)]
    counts = np.array([len(member) for member in members])
    means = np.stack([member.mean(axis=0) for member in members])
    scatters = [(member - mean).T @ (member - mean) for member, mean in zip(members, means, strict=True)]
    dim = vectors.shape[1]
    for held_out in range(len(members)):
        training = [k for k in range(len(members)) if k != held_out]
        mean = np.average(means[training], axis=0, weights=counts[training])
        between = (means[training] - mean) * np.sqrt(counts[training])[:, None]
        scatter = between.T @ between
        for k in training:
            scatter += scatters[k]
        with threadpool_limits(1):  # threads that wait for each other on a busy machine make this 100 times slower
            variance, axes = eigh(scatter, subset_by_index=(max(dim - components, 0), dim - 1))
        yield mean, axes[:, variance > variance[-1] * dim * np.finfo(np.float64).eps]


def _check_embeddings(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise FacegmError(f"embeddings: expected two arrays [pairs, dim] of one shape, got {a.shape} and {b.shape}")
    broken = ~(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    if broken.any():
        raise FacegmError(
            f"embeddings: NaN or infinity in {np.count_nonzero(broken)} of {len(a)} pairs, "
            f"first in pair {int(broken.argmax())} (counted from 0); look at the model and at that image"
        )


def _check_folds(pairs: int, same: Bool[np.ndarray, "..."], fold: Int[np.ndarray, "..."]) -> None:
    if same.shape != (pairs,) or fold.shape != (pairs,):
        raise FacegmError(f"{pairs} pairs of embeddings, but same has shape {same.shape} and fold {fold.shape}")
    if pairs == 0 or fold.min() < 0 or fold.max() == 0:
        raise FacegmError("folds: cross-validation needs at least 2 folds, numbered from 0")
    for k in range(int(fold.max()) + 1):
        matched = np.count_nonzero(same[fold == k])
        mismatched = np.count_nonzero(fold == k) - matched
        if not matched or not mismatched:
            raise FacegmError(
                f"folds: fold {k} (counted from 0) has {matched} matched and {mismatched} mismatched pairs; "
                "every fold needs both kinds"
            )


def _check_spread(a: Float64[np.ndarray, "pairs dim"], b: Float64[np.ndarray, "pairs dim"], rounding: float) -> None:
    """Raise when all distances agree to within the rounding of the embeddings' own precision."""
    distances = np.linalg.norm(a - b, axis=1)
    if np.ptp(distances) <= rounding * max(np.linalg.norm(a, axis=1).max(), np.linalg.norm(b, axis=1).max()):
        raise FacegmError(
            f"embeddings: all {len(a)} pairs have the same distance {distances[0]:.3g}, so they say nothing about "
            "identity; the model is untrained or has collapsed"
        )
