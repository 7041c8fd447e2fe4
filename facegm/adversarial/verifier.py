"""How the verification protocol compares embeddings, as attacks need it: in torch, differentiable, by folds."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from facegm.eval.metrics import threshold_at
from facegm.eval.pairs import Pairs
from facegm.eval.pca import pca_by_fold
from facegm.eval.protocol import Verification, verify
from facegm.eval.scores import Variant


@dataclass(frozen=True, eq=False, kw_only=True)
class Verifier:
    """The decision of `facegm.eval.protocol` on the pairs of each fold.

    They show one person where the L2 distance of what is `compared` is below the fold's threshold. PCA and threshold of
    a fold come from the pairs of all others.
    """

    variant: Variant
    """What happens to the embeddings before their distance."""
    thresholds: Float[Tensor, " folds"]
    """L2 distances, not squared."""
    mean: Float[Tensor, "folds dim"] | None = None
    axes: Float[Tensor, "folds dim components"] | None = None
    """Of the PCA; None without it. Folds that lack axes of some variance have zeros in their place."""

    def compared(
        self, embeddings: Float[Tensor, "pairs dim"], fold: Int64[Tensor, " pairs"]
    ) -> Float[Tensor, "pairs components"]:
        """What distances are taken of, differentiable.

        Args:
            embeddings: of one photo of each pair, mirror images summed or averaged, not normalised.
            fold: that of each pair.
        """
        if self.variant.normalise:
            embeddings = normalize(embeddings, dim=1)
        if self.mean is None or self.axes is None:
            return embeddings
        centred = embeddings - self.mean[fold].to(embeddings)
        projected = torch.bmm(centred[:, None], self.axes[fold].to(embeddings))[:, 0]
        return normalize(projected, dim=1) if self.variant.renormalise else projected

    def to(self, device: torch.device) -> "Verifier":
        """The same on a device."""
        mean, axes = (None if part is None else part.to(device) for part in (self.mean, self.axes))
        return replace(self, thresholds=self.thresholds.to(device), mean=mean, axes=axes)


def fit_verifier(
    embeddings_a: Float[np.ndarray, "pairs dim"],
    embeddings_b: Float[np.ndarray, "pairs dim"],
    pairs: Pairs,
    *,
    variant: Variant,
    false_accept_rate: float | None = None,
) -> tuple[Verifier, Verification]:
    """Fit what the protocol fits, and verify all pairs.

    Args:
        embeddings_a: embedding of every pair's left image, mirror images already summed.
        embeddings_b: embedding of every pair's right image.
        pairs: the pairs, and their folds.
        variant: normalisation and PCA before the distance.
        false_accept_rate: of a fold's threshold on the different pairs of all other folds, each under the PCA that did
            not see it; None for the threshold of highest accuracy there.

    Returns:
        The verifier in float64 on the CPU, and the outcome of the protocol with the thresholds of highest accuracy.

    Raises:
        FacegmError: as `facegm.eval.protocol.verify` says.
    """
    result = verify(embeddings_a, embeddings_b, pairs.same, pairs.fold, variant=variant)
    thresholds = result.fold_threshold
    if false_accept_rate is not None:
        others = [~pairs.same & (pairs.fold != held_out) for held_out in range(len(thresholds))]
        thresholds = np.array([threshold_at(result.distances[chosen], false_accept_rate) for chosen in others])
    verifier = Verifier(variant=variant, thresholds=torch.from_numpy(thresholds))
    if variant.components is None:
        return verifier, result
    embeddings = torch.from_numpy(np.concatenate([embeddings_a, embeddings_b]).astype(np.float64))
    vectors = (normalize(embeddings, dim=1) if variant.normalise else embeddings).numpy()
    fitted = list(pca_by_fold(vectors, np.concatenate([pairs.fold, pairs.fold]), variant.components))
    axes = torch.zeros(len(fitted), vectors.shape[1], max(of_fold.shape[1] for _, of_fold in fitted)).double()
    for number, (_, of_fold) in enumerate(fitted):
        axes[number, :, : of_fold.shape[1]] = torch.from_numpy(of_fold)
    return replace(verifier, mean=torch.from_numpy(np.stack([mean for mean, _ in fitted])), axes=axes), result


def judged_right(verifier: Verifier, result: Verification, pairs: Pairs) -> Bool[np.ndarray, " pairs"]:
    """Which pairs a verifier judges as they are."""
    is_accepted = result.distances < verifier.thresholds.numpy()[pairs.fold]
    return np.asarray(is_accepted == pairs.same)


def first_of_each_fold(fold: Int64[np.ndarray, " pairs"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Numbers of the first pairs of each fold, as equally many of each as there are, `count` at most in all.

    Args:
        fold: of each pair.
        count: how many.
    """
    place = np.empty(len(fold), np.int64)
    for number in np.unique(fold):
        members = np.flatnonzero(fold == number)
        place[members] = np.arange(len(members))
    return np.sort(np.lexsort((fold, place))[:count])
