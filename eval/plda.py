"""Two-covariance PLDA: the log-likelihood ratio that two embeddings are of one person, in closed form.

The model is the GM loss's own assumption, with covariances that are measured in place of the identity: an embedding of
a person is x ~ N(mu, W), and people are mu ~ N(m, B) (Bruemmer & de Villiers, "The speaker partitioning problem",
2010; probabilistic linear discriminant analysis of full rank). It is a matter of lengths, so embeddings are not
normalised.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped
from scipy.linalg import eigh

from facegm.errors import FacegmError
from facegm.eval.pca import linear_algebra, principal_axes


@dataclass(frozen=True, kw_only=True, eq=False)
class Plda:
    """A fitted model, in the axes in which both covariances are diagonal."""

    mean: Float64[np.ndarray, " dim"]
    """m: the mean of all embeddings."""
    axes: Float64[np.ndarray, "dim components"]
    """V, with V' W V = 1 and V' B V diagonal; axes in which people do not differ, which say nothing, are left out."""
    between: Float64[np.ndarray, " components"]
    """The diagonal of V' B V, positive: variance between people, in units of the variance within each."""
    images: int
    """What it was fitted on."""
    people: int
    ridge: float

    def log_likelihood_ratio(
        self, a: Float[np.ndarray, "pairs dim"], b: Float[np.ndarray, "pairs dim"]
    ) -> Float64[np.ndarray, " pairs"]:
        """Log p(a, b | one person) - log p(a, b | two people), in nats, in float64.

        In each axis, s = (a + b - 2 m) / sqrt 2 and d = (a - b) / sqrt 2 are independent: of one person with variances
        1 + 2 psi and 1, of two people both with 1 + psi, where psi is the variance between people.

        Args:
            a: one embedding of every pair, prepared as those of the fit were.
            b: the other.

        Raises:
            FacegmError: embeddings of another dimension than those of the fit.
        """
        if a.shape[1:] != self.mean.shape or a.shape != b.shape:
            raise FacegmError(f"PLDA: fitted on embeddings of {len(self.mean)} dimensions, got {a.shape} and {b.shape}")
        left, right = ((x.astype(np.float64) - self.mean) @ self.axes for x in (a, b))
        s2, d2 = (left + right) ** 2 / 2, (left - right) ** 2 / 2
        psi = self.between
        constant = np.log1p(psi).sum() - np.log1p(2 * psi).sum() / 2
        weight_s = 1 / (1 + psi) - 1 / (1 + 2 * psi)
        weight_d = 1 / (1 + psi) - 1
        return np.asarray(constant + (s2 @ weight_s + d2 @ weight_d) / 2)


def fit_plda(
    embeddings: Float[np.ndarray, "images dim"],
    labels: Shaped[np.ndarray, " images"],
    *,
    components: int | None = None,
    ridge: float = 0.0,
) -> Plda:
    """Fit by moments (analysis of variance), which weighs people with unequally many images rightly.

    With n_k images of each of K people, N in all: W is the scatter of the images about their people's means over N - K,
    and the people's means scatter about m, each n_k times, with expectation (K - 1) (W + n0 B) where
    n0 = (N - sum n_k^2 / N) / (K - 1) (Searle, Casella & McCulloch, "Variance components", 1992, 3.6). Where that makes
    B negative, in an axis of the joint diagonalisation, it is 0.

    Args:
        embeddings: each image once, not normalised.
        labels: person of every image.
        components: principal components that are kept first, at most as many as there are; None for no PCA.
        ridge: added to W's diagonal, as a share of its mean: 0.1 holds 512 dimensions together with a few hundred
            people.

    Raises:
        FacegmError: embeddings that are not finite, fewer than 2 people, nobody with 2 images, a singular W, or people
            who do not differ.
    """
    _check(embeddings, labels)
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    images, people = len(labels), len(counts)
    mean = embeddings.mean(axis=0, dtype=np.float64)
    x = embeddings - mean
    basis = np.eye(x.shape[1]) if components is None else principal_axes(x.T @ x, components)
    x = x @ basis
    person_mean = np.add.reduceat(x[np.argsort(number, kind="stable")], np.cumsum(counts) - counts) / counts[:, None]
    residual = x - person_mean[number]
    within = residual.T @ residual / (images - people)
    effective_count = (images - (counts**2).sum() / images) / (people - 1)
    weighted = person_mean * np.sqrt(counts)[:, None]
    between = (weighted.T @ weighted / (people - 1) - within) / effective_count
    within[np.diag_indices_from(within)] += ridge * np.trace(within) / len(within)
    variance, axes = _joint_diagonalisation(within, between, images, people)
    differing = variance > 0
    if not differing.any():
        raise FacegmError(
            f"PLDA: the embeddings of {people} people do not differ more than those of one; nothing to fit"
        )
    return Plda(
        mean=mean,
        axes=basis @ axes[:, differing],
        between=variance[differing],
        images=images,
        people=people,
        ridge=ridge,
    )


def _check(embeddings: Float[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise FacegmError(
            f"PLDA: expected embeddings [images, dim] and a label of each, got {embeddings.shape} and {labels.shape}"
        )
    if not np.isfinite(embeddings).all():
        raise FacegmError("PLDA: NaN or infinity among the embeddings; look at the model and at its images")
    people = len(np.unique(labels))
    if people < 2 or people == len(labels):
        raise FacegmError(
            f"PLDA: {len(labels)} images of {people} people; the fit needs 2 people, and several images of some of them"
        )


def _joint_diagonalisation(
    within: Float64[np.ndarray, "dim dim"], between: Float64[np.ndarray, "dim dim"], images: int, people: int
) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
    """Variances between people and axes V with V' within V = 1.

    Raises:
        FacegmError: the covariance within people is singular.
    """
    dim = len(within)
    with linear_algebra().limit(limits=1):
        spread = eigh(within, eigvals_only=True)
        if spread[0] > spread[-1] * dim * np.finfo(np.float64).eps:
            variance, axes = eigh(between, within)
            return variance, axes
    raise FacegmError(
        f"PLDA: the covariance within people is singular: {images} images of {people} people in {dim} dimensions; "
        "keep fewer principal components, or give a ridge"
    )
