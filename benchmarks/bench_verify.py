"""The ten folds of LFW's size: exact thresholds against insightface's 400 steps, and the protocol with PCA 512 to 64.

Embeddings are simulated: 6,000 pairs of 512 dimensions, in single precision, whose spectrum falls off as a trained
network's does. Seconds are those that the processor spends on this process, on one thread, so that others on the
machine count little.
"""

from collections.abc import Callable, Iterator

import numpy as np
from interleaved import measure, processor_seconds, write_results
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from facegm.eval.protocol import cross_validate, verify
from facegm.eval.scores import NO_PCA, PCA_64, PCA_64_RENORMALISED, FoldPlda

PAIRS, FOLDS, DIM = 6000, 10, 512
RUNS = 5
STEPS = np.arange(0, 4, 0.01)
"""insightface's thresholds of squared distances."""
FINE_STEPS = np.arange(0, 4, 0.001)
"""Those by which it looks for the true accept rate at a false accept rate of 0.001."""


def main() -> None:
    a, b, people_a, people_b = embeddings()
    same, fold = people_a == people_b, np.arange(PAIRS) // (PAIRS // FOLDS)
    squared = squared_distances(a, b)
    distances = np.sqrt(squared)
    tasks: dict[str, dict[str, Callable[[], float]]] = {
        "distances to accuracy": {
            "insightface, 400 steps": lambda: four_hundred_steps(squared, same, fold),
            "facegm, exact": lambda: cross_validate([distances] * FOLDS, same, fold, variant=NO_PCA).accuracy,
        },
        "embeddings to accuracy": {
            "insightface, 400 steps": lambda: four_hundred_steps(squared_distances(a, b), same, fold),
            "insightface, and 4,000 steps for the rates": lambda: with_rates(a, b, same, fold),
            "facegm, no PCA": lambda: verify(a, b, same, fold, variant=NO_PCA).accuracy,
        },
        "embeddings to accuracy, PCA 64": {
            "scikit-learn's PCA, exact thresholds": lambda: with_scikit_learn(a, b, same, fold),
            "facegm, PCA 64": lambda: verify(a, b, same, fold, variant=PCA_64).accuracy,
            "facegm, PCA 64, re-normalised": lambda: verify(a, b, same, fold, variant=PCA_64_RENORMALISED).accuracy,
            "facegm, PLDA": lambda: verify(a, b, same, fold, variant=FoldPlda(people_a, people_b)).accuracy,
        },
    }
    rows: list[dict[str, object]] = []
    with threadpool_limits(1):
        for task, ways in tasks.items():
            measured = measure(ways, runs=RUNS, clock=processor_seconds)
            first = float(str(measured[0]["median_s"]))
            for row in measured:
                times_faster = round(first / float(str(row["median_s"])), 1)
                accuracy = round(ways[str(row["way"])](), 6)
                rows.append({"task": task, **row, "times_faster": times_faster, "accuracy": accuracy})
    write_results("verify", rows)


def embeddings() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both sides of all pairs, and the person on each: 400 people a fold, and 300 pairs of each kind."""
    rng = np.random.default_rng(0)
    of_fold = PAIRS // FOLDS
    people = np.arange(FOLDS)[:, None] * 400 + rng.integers(0, 400, (FOLDS, of_fold))
    others = np.arange(FOLDS)[:, None] * 400 + (people % 400 + rng.integers(1, 400, people.shape)) % 400
    people_a = people.ravel()
    people_b = np.where(np.arange(of_fold) < of_fold // 2, people, others).ravel()
    spectrum = np.exp(-np.arange(DIM) / 60)
    means = rng.normal(size=(FOLDS * 400, DIM))
    a, b = ((means[who] + 1.1 * rng.normal(size=(PAIRS, DIM))) * spectrum + 0.1 for who in (people_a, people_b))
    return a.astype(np.float32), b.astype(np.float32), people_a, people_b


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of embeddings at unit length, in their own precision, as insightface has them."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return np.asarray(np.square(a - b).sum(axis=1))


def rates_at(threshold: float, squared: np.ndarray, same: np.ndarray) -> tuple[float, float, float]:
    """True and false accept rate and accuracy, from the four counts that insightface takes."""
    accepted = squared < threshold
    true_accepts = np.logical_and(accepted, same).sum()
    false_accepts = np.logical_and(accepted, np.logical_not(same)).sum()
    true_rejects = np.logical_and(np.logical_not(accepted), np.logical_not(same)).sum()
    false_rejects = np.logical_and(np.logical_not(accepted), same).sum()
    return (
        float(true_accepts) / max(float(true_accepts + false_rejects), 1),
        float(false_accepts) / max(float(false_accepts + true_rejects), 1),
        float(true_accepts + true_rejects) / len(squared),
    )


def four_hundred_steps(squared: np.ndarray, same: np.ndarray, fold: np.ndarray) -> float:
    """What `calculate_roc` of insightface does: each fold by the first best of the steps on the others, and its ROC."""
    accuracies = []
    for held_out in range(FOLDS):
        training, test = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        of_training = [rates_at(step, squared[training], same[training])[2] for step in STEPS]
        for step in STEPS:
            rates_at(step, squared[test], same[test])
        best = STEPS[int(np.argmax(of_training))]
        accuracies.append(rates_at(best, squared[test], same[test])[2])
    return float(np.mean(accuracies))


def with_rates(a: np.ndarray, b: np.ndarray, same: np.ndarray, fold: np.ndarray) -> float:
    """What `evaluate` of insightface does: the 400 steps, and in `calculate_val` the false accept rates at 4,000."""
    accuracy = four_hundred_steps(squared_distances(a, b), same, fold)
    squared = squared_distances(a, b)
    for held_out in range(FOLDS):
        training = np.flatnonzero(fold != held_out)
        for step in FINE_STEPS:
            accepted = squared[training] < step
            np.logical_and(accepted, same[training]).sum()
            np.logical_and(accepted, np.logical_not(same[training])).sum()
    return accuracy


def with_scikit_learn(a: np.ndarray, b: np.ndarray, same: np.ndarray, fold: np.ndarray) -> float:
    """The protocol with a PCA fitted anew in each fold, in double precision."""
    unit = [x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (a, b)]

    def distances_by_fold() -> Iterator[np.ndarray]:
        for held_out in range(FOLDS):
            training = fold != held_out
            pca = PCA(64, svd_solver="covariance_eigh").fit(np.concatenate([x[training] for x in unit]))
            yield np.linalg.norm(pca.transform(unit[0]) - pca.transform(unit[1]), axis=1)

    return cross_validate(distances_by_fold(), same, fold, variant=PCA_64).accuracy


if __name__ == "__main__":
    main()
