"""insightface's verification, which tries 400 thresholds, against the exact one."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA, PCA_64_RENORMALISED

STEPS = np.arange(400) / 100
"""insightface's thresholds: squared L2 distances at unit length, 0 to 3.99."""

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def insightface(a: np.ndarray, b: np.ndarray, same: np.ndarray, fold: np.ndarray, components: int = 0) -> list[float]:
    """Accuracy of every fold, as `eval/verification.py` of its arcface_torch computes it.

    The threshold of a fold is the first of those that are most accurate on the others. PCA is fitted on both sides of
    the other folds' pairs, and embeddings are scaled to unit length after it.
    """
    unit = [x / np.linalg.norm(x, axis=1)[:, None] for x in (a, b)]
    accuracies = []
    for k in range(int(fold.max()) + 1):
        sides = unit
        if components:
            pca = PCA(components, svd_solver="full").fit(np.concatenate([x[fold != k] for x in unit]))
            reduced = [pca.transform(x) for x in unit]
            sides = [x / np.linalg.norm(x, axis=1)[:, None] for x in reduced]
        squared = ((sides[0] - sides[1]) ** 2).sum(axis=1)
        training = [np.mean((squared < step)[fold != k] == same[fold != k]) for step in STEPS]
        best = STEPS[int(np.argmax(training))]
        accuracies.append(float(np.mean((squared < best)[fold == k] == same[fold == k])))
    return accuracies


def at_squared_distances(squared: np.ndarray, same: np.ndarray, fold: np.ndarray, dim: int = 16) -> Case:
    """Pairs whose squared distances at unit length are given; equal ones stay so, since lengths are powers of 2."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(dim, 2)))[0]
    angle = 2 * np.arcsin(np.sqrt(squared) / 2)
    a, b = (np.stack([np.cos(x), np.sin(x)], axis=1) @ plane.T for x in (0 * angle, angle))
    return a * 2.0 ** rng.integers(-3, 4, (len(a), 1)), b * 8, same, fold


def overlapping(seed: int) -> Case:
    """Squared distances in the middle between steps, so that the steps hold every split that there is."""
    rng = np.random.default_rng(seed)
    same, fold = np.arange(6000) % 600 < 300, np.arange(6000) // 600
    squared = np.clip(rng.normal(np.where(same, 0.9, 1.7), 0.3), 0.05, 3.9)
    return at_squared_distances(np.floor(squared * 100) / 100 + 0.005, same, fold)


def is_defined(a: np.ndarray, b: np.ndarray, same: np.ndarray, fold: np.ndarray) -> bool:
    """Whether one step alone is best in every fold; of several the two programs take different ones."""
    squared = np.array(
        [((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum() for x, y in zip(a, b, strict=True)]
    )
    is_right = (squared[:, None] < STEPS) == same[:, None]
    counts = [np.sort(is_right[fold != k].sum(axis=0)) for k in range(10)]
    return all(count[-1] > count[-2] for count in counts)


def test_both_agree_where_the_steps_hold_every_split() -> None:
    case = next(case for case in map(overlapping, range(30)) if is_defined(*case))
    found, expected = verify(*case, variant=NO_PCA), insightface(*case)
    assert found.accuracy == pytest.approx(np.mean(expected), abs=1e-4)
    assert 0.85 < found.accuracy < 0.95
    np.testing.assert_allclose(found.fold_accuracy, expected, atol=1e-12)


def test_both_agree_after_pca_where_the_kinds_lie_apart() -> None:
    rng = np.random.default_rng(0)
    same, fold = np.arange(600) % 2 == 0, np.arange(600) // 60
    mistaken = rng.permutation(600)[:37]
    looks_same = same.copy()
    looks_same[mistaken] ^= True
    a = rng.normal(size=(600, 96))
    b = np.where(looks_same[:, None], a + 0.01 * rng.normal(size=a.shape), rng.normal(size=a.shape))
    found = verify(a, b, same, fold, variant=PCA_64_RENORMALISED)
    assert found.accuracy == pytest.approx(np.mean(insightface(a, b, same, fold, components=64)), abs=1e-4)
    assert found.accuracy == pytest.approx(1 - 37 / 600)


@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-6])
def test_on_compressed_distances_400_steps_are_stuck_at_one_half(scale: float) -> None:
    rng = np.random.default_rng(0)
    same, fold = np.arange(600) % 2 == 0, np.arange(600) // 60
    distance = np.where(same, 0.3, 0.7) + rng.uniform(-0.1, 0.1, 600)
    wrong = rng.permutation(600)[:30]
    distance[wrong] = np.where(same[wrong], 0.8, 0.2)
    case = at_squared_distances((distance * scale) ** 2, same, fold)
    assert insightface(*case) == [0.5] * 10
    assert verify(*case, variant=NO_PCA).accuracy == pytest.approx(0.95)
