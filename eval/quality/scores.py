"""Quality scores of a face: numbers that are to be higher, the easier a face is to recognise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import logsumexp
from scipy.stats import rankdata

from facegm.embedding.aligned_embedder import normalised
from facegm.embedding.likelihood import ClassLikelihood, training_scale

LIKELIHOOD, DENSITY = "GM likelihood", "marginal density"
NORM, PROBABILITY, SHARPNESS, MIRROR = "feature norm", "detector probability", "sharpness", "mirror consistency"
MEANINGS: Mapping[str, str] = {
    LIKELIHOOD: "log-likelihood under the nearest training identity, -min ||x - mu||^2 / 2",
    DENSITY: "log-likelihood under the mixture of all training identities",
    NORM: "length of the embedding before it is scaled to 1",
    PROBABILITY: "MTCNN's, looking for a face in the aligned one, degraded or not; 0 where it finds none",
    SHARPNESS: "variance of the Laplacian of the luminance",
    MIRROR: "negative L2 distance between the unit-length embeddings of the face and of its mirror image",
}
"""All scores, and what each is."""

Scores = Mapping[str, Float64[np.ndarray, " faces"]]
"""By name, higher for better faces."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredFaces:
    """What the scores are made of, of each face."""

    face_side: Float[np.ndarray, "faces dim"]
    """f(face), not normalised."""
    mirrored_side: Float[np.ndarray, "faces dim"]
    """f(mirrored face)."""
    probability: Float[np.ndarray, " faces"]
    """That the detector gives the face that it finds in the aligned one; 0 where it finds none."""
    sharpness: Float[np.ndarray, " faces"]
    """See `facegm.align.face.sharpness`."""

    def features(self, *, is_mirrored: bool) -> Float64[np.ndarray, "faces dim"]:
        """Embeddings on the scale of the training, where the means lie.

        Args:
            is_mirrored: whether an embedding is made of both sides: their mean then, else f(face) alone.
        """
        face = self.face_side.astype(np.float64)
        return training_scale(face + self.mirrored_side if is_mirrored else face, is_mirrored=is_mirrored)


def quality_scores(
    measured: MeasuredFaces, means: Float[np.ndarray, "identities dim"] | None, *, is_mirrored: bool
) -> Scores:
    """All scores that there are.

    Args:
        measured: of the faces.
        means: of the training identities, of the GM loss; None for other losses, which have no likelihood.
        is_mirrored: see `MeasuredFaces.features`.
    """
    x = measured.features(is_mirrored=is_mirrored)
    unit_face, unit_mirrored = (
        normalised(side.astype(np.float64)) for side in (measured.face_side, measured.mirrored_side)
    )
    likelihoods = {} if means is None else _likelihoods(x, means.astype(np.float64))
    return likelihoods | {
        NORM: np.linalg.norm(x, axis=1),
        PROBABILITY: measured.probability.astype(np.float64),
        SHARPNESS: measured.sharpness.astype(np.float64),
        MIRROR: -np.linalg.norm(unit_face - unit_mirrored, axis=1),
    }


def _likelihoods(
    x: Float64[np.ndarray, "faces dim"], mu: Float64[np.ndarray, "identities dim"]
) -> dict[str, Float64[np.ndarray, " faces"]]:
    """Under Gaussians of identity covariance and equal weight, as the GM loss has them.

    The first without the constant that it has in common for all faces, as the loss's logits.
    """
    center, (identities, dim) = mu.mean(axis=0), mu.shape
    x, mu = x - center, mu - center
    distances = np.square(x).sum(axis=1)[:, None] - 2 * x @ mu.T + np.square(mu).sum(axis=1)
    constant = np.log(identities) + dim / 2 * np.log(2 * np.pi)
    return {LIKELIHOOD: ClassLikelihood(means=mu).score(x), DENSITY: logsumexp(-distances / 2, axis=1) - constant}


def severity_correlation(scores: Float[np.ndarray, "images severities"]) -> Float64[np.ndarray, " images"]:
    """Spearman's rank correlation of a score with severity, within each image: -1 where each step lowers the score.

    Args:
        scores: of each image, from the face as it is to the most degraded one.

    Returns:
        0 where all scores of an image are equal: they rank nothing.
    """
    ranks, order = rankdata(scores, axis=1), np.arange(scores.shape[1], dtype=np.float64)
    ranks, order = ranks - ranks.mean(axis=1, keepdims=True), order - order.mean()
    length = np.linalg.norm(ranks, axis=1) * np.linalg.norm(order)
    return np.asarray(np.divide(ranks @ order, length, out=np.zeros(len(ranks)), where=length > 0))
