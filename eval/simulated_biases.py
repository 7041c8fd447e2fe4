"""What an accuracy gains by ways around the protocol, on simulated distances."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from facegm.eval.metrics import accuracy_at, best_threshold
from facegm.eval.protocol import verify
from facegm.eval.scores import RAW

FOLDS, FOLD_PAIRS = 10, 600
"""As LFW's: half of a fold's pairs show one person."""
SEPARATION = 4.91
"""Between the mean distances of same and of different pairs, in standard deviations: an accuracy of about 99.3 %."""
DROPPED = 0.01
"""Share of the pairs that are left out as too hard."""
HARD_FOR_BOTH = 0.6
"""Correlation of what makes a pair hard for the face detector, by which pairs are left out, and for the network."""


@dataclass(frozen=True, kw_only=True)
class Biases:
    """What is gained on the protocol, in shares of 1: positive where the figure is too good."""

    accuracy: float
    """By the protocol."""
    one_threshold: float
    """By one threshold, chosen on all the pairs that it is scored on (oracle accuracy)."""
    threshold_a_fold: float
    """By a threshold a fold, chosen on the very pairs of that fold."""
    without_hardest: float
    """By leaving out the hardest 1 % of the pairs."""


def simulated_biases(*, sets: int = 200, seed: int = 0) -> Biases:
    """Score simulated sets of 6,000 pairs by the protocol and by ways around it.

    Args:
        sets: how many; the biases are means over them.
        seed: of the distances.
    """
    generator = np.random.default_rng(seed)
    found = np.array([_one_set(generator) for _ in range(sets)]).mean(axis=0).tolist()
    accuracy, oracle, of_folds, without_hardest = found
    return Biases(
        accuracy=accuracy,
        one_threshold=oracle - accuracy,
        threshold_a_fold=of_folds - accuracy,
        without_hardest=without_hardest - accuracy,
    )


def _one_set(generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Accuracy by the protocol, of the oracle, with a threshold a fold, and without the hardest pairs."""
    pairs = FOLDS * FOLD_PAIRS
    fold = np.arange(pairs) // FOLD_PAIRS
    same = np.arange(pairs) % FOLD_PAIRS < FOLD_PAIRS // 2
    hardness = generator.normal(size=pairs)
    distances = np.where(same, hardness, SEPARATION - hardness)
    accuracy, oracle = _by_protocol(distances, same, fold)
    of_folds = [
        accuracy_at(best_threshold(distances[own], same[own]), distances[own], same[own])
        for own in (fold == number for number in range(FOLDS))
    ]
    for_detector = HARD_FOR_BOTH * hardness + np.sqrt(1 - HARD_FOR_BOTH**2) * generator.normal(size=pairs)
    kept = np.sort(np.argsort(for_detector)[: round(pairs * (1 - DROPPED))])
    return accuracy, oracle, float(np.mean(of_folds)), _by_protocol(distances[kept], same[kept], fold[kept])[0]


def _by_protocol(
    distances: Float64[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], fold: Int[np.ndarray, " pairs"]
) -> tuple[float, float]:
    """Accuracy and oracle accuracy of distances, as those of points on a line from one another."""
    right = (distances - distances.min())[:, None]  # an offset changes no judgement
    result = verify(np.zeros_like(right), right, same, fold, variant=RAW)
    return result.accuracy, result.oracle_accuracy
