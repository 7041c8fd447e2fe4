"""Principal components, of vectors or of all but one fold of them, in float64."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits


def principal_axes(scatter: Float64[np.ndarray, "dim dim"], components: int) -> Float64[np.ndarray, "dim components"]:
    """The axes of the largest variance: scikit-learn's PCA up to the axes' signs and order.

    Args:
        scatter: sum of the products of centred vectors, or their covariance.
        components: number of axes, where there are as many; axes without variance, whose direction is arbitrary, are
            left out.
    """
    dim = len(scatter)
    with threadpool_limits(1):  # threads that wait for each other on a busy machine make this 100 times slower
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
    members = [vectors[fold == held_out] for held_out in range(int(fold.max()) + 1)]
    counts = np.array([len(member) for member in members])
    means = np.stack([member.mean(axis=0) for member in members])
    scatters = [_scatter(member, mean) for member, mean in zip(members, means, strict=True)]
    for held_out in range(len(members)):
        training = [k for k in range(len(members)) if k != held_out]
        mean = np.average(means[training], axis=0, weights=counts[training])
        weight = np.sqrt(counts[training])[:, None]
        scatter = _scatter(weight * means[training], weight * mean)
        for k in training:
            scatter += scatters[k]
        yield mean, principal_axes(scatter, components)


def _scatter(
    vectors: Float64[np.ndarray, "vectors dim"], mean: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "dim dim"]:
    centred = vectors - mean
    return np.asarray(centred.T @ centred)  # of one array with itself, which takes half the multiplications
