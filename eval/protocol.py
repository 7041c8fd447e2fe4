"""The ten-fold verification protocol: score and threshold from the training folds, accuracy on the held-out fold."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from facegm.errors import FacegmError
from facegm.eval.metrics import accuracy_at, best_threshold
from facegm.eval.scores import Score


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """Outcome of the protocol for one score."""

    variant: Score
    accuracy: float
    """Mean over the folds of the held-out accuracy."""
    standard_error: float
    """Standard deviation of the folds' accuracies (ddof 1) over the square root of their number."""
    fold_accuracy: Float64[np.ndarray, " folds"]
    """Accuracy on every held-out fold."""
    fold_threshold: Float64[np.ndarray, " folds"]
    """Threshold (a distance) that was best on the other folds."""
    oracle_accuracy: float
    """Accuracy of the one threshold chosen on the very pairs it is scored on: too good, never the result."""
    distances: Float64[np.ndarray, " pairs"]
    """Out-of-fold distances: each pair's under the score whose fit did not see the pair's fold."""


def verify(
    embeddings_a: Float[np.ndarray, "pairs dim"],
    embeddings_b: Float[np.ndarray, "pairs dim"],
    same: Bool[np.ndarray, " pairs"],
    fold: Int[np.ndarray, " pairs"],
    *,
    variant: Score,
) -> Verification:
    """Score embeddings by cross-validation over the given folds (LFW, unrestricted, labeled outside data).

    In each fold, what the score fits, such as its PCA, is fitted on all other folds, and the threshold is the most
    accurate one on those folds. Computed in float64.

    Args:
        embeddings_a: embedding of every pair's left image, mirror images already summed.
        embeddings_b: embedding of every pair's right image.
        same: True where a pair shows one person.
        fold: fold of every pair, counted from 0.
        variant: how embeddings are compared.

    Raises:
        FacegmError: shapes disagree, embeddings are constant or not finite, there are fewer than 2 folds, a fold lacks
            pairs of one kind, or the score cannot be fitted.
    """
    _check_embeddings(embeddings_a, embeddings_b)
    _check_folds(len(embeddings_a), same, fold)
    return cross_validate(variant.distances_by_fold(embeddings_a, embeddings_b, fold), same, fold, variant=variant)


def cross_validate(
    distances_by_fold: Iterable[Float64[np.ndarray, " pairs"]],
    same: Bool[np.ndarray, " pairs"],
    fold: Int[np.ndarray, " pairs"],
    *,
    variant: Score,
) -> Verification:
    """Choose each fold's threshold on all others, and judge the fold by it.

    Args:
        distances_by_fold: the distances of all pairs, for each held-out fold in turn, finite.
        same: True where a pair shows one person; pairs of both kinds in every fold.
        fold: fold of every pair, counted from 0, at least 2.
        variant: what the distances are, for the outcome.
    """
    by_fold = list(distances_by_fold)
    order = np.argsort(by_fold[0])  # pairs that are nearly in order are sorted in a fraction of the time, in every fold
    ordered_same, ordered_fold = same[order], fold[order]
    out_of_fold = np.empty(len(order))
    fold_accuracy, fold_threshold = np.empty(len(by_fold)), np.empty(len(by_fold))
    for held_out, distances in enumerate(by_fold):
        test, training = np.flatnonzero(ordered_fold == held_out), np.flatnonzero(ordered_fold != held_out)
        ordered = distances[order]
        threshold = best_threshold(ordered[training], ordered_same[training])
        fold_threshold[held_out] = threshold
        fold_accuracy[held_out] = accuracy_at(threshold, ordered[test], ordered_same[test])
        out_of_fold[test] = ordered[test]
    in_pairs_order = np.empty_like(out_of_fold)
    in_pairs_order[order] = out_of_fold
    return Verification(
        variant=variant,
        accuracy=float(fold_accuracy.mean()),
        standard_error=float(fold_accuracy.std(ddof=1) / np.sqrt(len(by_fold))),
        fold_accuracy=fold_accuracy,
        fold_threshold=fold_threshold,
        oracle_accuracy=accuracy_at(best_threshold(out_of_fold, ordered_same), out_of_fold, ordered_same),
        distances=in_pairs_order,
    )


def _check_embeddings(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise FacegmError(f"embeddings: expected two arrays [pairs, dim] of one shape, got {a.shape} and {b.shape}")
    if np.isfinite(a).all() and np.isfinite(b).all():
        return
    broken = ~(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
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
