"""Principal components, of vectors or of all but one fold of them, in float64."""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Float64, Int
from scipy.linalg import eigh
from threadpoolctl import ThreadpoolController


@cache
def linear_algebra() -> ThreadpoolController:
    """Sets the threads of numpy's and scipy's libraries, which are looked for once.

    Eigenvalues are best found by one: threads that wait for each other on a busy machine take 100 times as long.
    """
    return ThreadpoolController()


def principal_axes(scatter: Float64[np.ndarray, "dim dim"], components: int) -> Float64[np.ndarray, "dim components"]:
    """The axes of the largest variance: scikit-learn's PCA up to the axes' signs and order.

    Args:
        scatter: sum of the products of centred vectors, or their covariance.
        components: number of axes, where there are as many; axes without variance, whose direction is arbitrary, are
            left out.
    """
    dim = len(scatter)
    with linear_algebra().limit(limits=1):
        variance, axes = eigh(scatter, subset_by_index=(max(dim - components, 0), dim - 1), check_finite=False)
    return np.asarray(axes[:, variance > variance[-1] * dim * np.finfo(np.float64).eps])


def pca_by_fold(
    vectors: Float64[np.ndarray, "vectors dim"], fold: Int[np.ndarray, " vectors"], components: int
) -> Iterator[tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim components"]]]:
    """Yield mean and principal axes of all vectors outside each fold.

    The protocol fits it on both sides of all pairs, normalised where the variant says so.

    Every fold's scatter about its own mean is computed once; those of the training folds, and only those, are then
    added up (Chan, Golub & LeVeque, 1979).
    """
    own = [_moments(vectors[fold == held_out]) for held_out in range(int(fold.max()) + 1)]
    counts, means = np.array([count for count, _, _ in own]), np.stack([mean for _, mean, _ in own])
    for held_out in range(len(own)):
        training = [k for k in range(len(own)) if k != held_out]
        mean = np.average(means[training], axis=0, weights=counts[training])
        between = (means[training] - mean) * np.sqrt(counts[training])[:, None]
        scatter = between.T @ between
        for k in training:
            scatter += own[k][2]
        yield mean, principal_axes(scatter, components)


def _moments(
    vectors: Float64[np.ndarray, "vectors dim"],
) -> tuple[int, Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
    """Number, mean and scatter about the mean of vectors, which are centred in place."""
    mean = vectors.mean(axis=0)
    vectors -= mean
    return len(vectors), mean, vectors.T @ vectors  # of one array with itself, which takes half the multiplications
