import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from facegm.errors import FacegmError
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA, PCA_64, PCA_64_RENORMALISED, RAW, STANDARD_VARIANTS, Variant

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def noisy_people(dim: int, folds: int = 5, size: int = 30, offset: float = 3.0, seed: int = 0) -> Case:
    """Pairs of noisy embeddings about a common offset, of very unequal length, folds interleaved."""
    rng = np.random.default_rng(seed)
    pairs = 2 * folds * size
    same = np.arange(pairs) % 2 == 0
    a = rng.normal(size=(pairs, dim))
    b = np.where(same[:, None], a, rng.normal(size=(pairs, dim)))
    spread = np.linspace(1, 0.1, dim)
    a, b = ((x + 0.9 * rng.normal(size=x.shape)) * spread for x in (a, b))
    return (a + offset / dim) * rng.uniform(0.2, 5, (pairs, 1)), b + offset / dim, same, np.arange(pairs) // 2 % folds


def known_outcome(wrong: list[int], size: int, dim: int) -> Case:
    """Same pairs at a small, different ones at a large angle; in fold k `wrong[k]` pairs far on the wrong side."""
    same = np.tile(np.arange(2 * size) < size, len(wrong))
    angle = np.where(same, 0.2, 0.7)
    for k, count in enumerate(wrong):
        flipped = np.random.default_rng(k).permutation(2 * size)[:count] + 2 * size * k
        angle[flipped] = np.where(same[flipped], 0.9, 0.1)
    start = np.random.default_rng(9).uniform(0, 2 * np.pi, len(same))
    plane = np.linalg.qr(np.random.default_rng(8).normal(size=(dim, 2)))[0]  # a circle somewhere in `dim` dimensions
    a, b = (np.stack([np.cos(t), np.sin(t)], axis=1) @ plane.T for t in (start, start + angle))
    return a, b, same, np.repeat(np.arange(len(wrong)), 2 * size)


def naive_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    """Try the middle of every gap between distinct distances."""
    values = np.unique(distances)
    candidates = (values[:-1] + values[1:]) / 2
    accuracies = np.array([np.mean((distances < t) == same) for t in candidates])
    best = candidates[accuracies == accuracies.max()]
    return float(best[(len(best) - 1) // 2])


def naive_verify(a: np.ndarray, b: np.ndarray, same: np.ndarray, fold: np.ndarray, variant: Variant) -> dict[str, Any]:
    """The protocol by a plain loop over folds with scikit-learn's PCA."""
    accuracy, thresholds, kept = [], [], np.empty(len(fold))
    for k in np.unique(fold):
        sides = [a.astype(np.float64), b.astype(np.float64)]
        if variant.normalise:
            sides = [x / np.linalg.norm(x, axis=1)[:, None] for x in sides]
        if variant.components is not None:
            training = np.concatenate([x[fold != k] for x in sides])
            pca = PCA(min(variant.components, a.shape[1]), svd_solver="full").fit(training)
            sides = [pca.transform(x) for x in sides]
        if variant.renormalise:
            sides = [x / np.linalg.norm(x, axis=1)[:, None] for x in sides]
        distances = np.sqrt(((sides[0] - sides[1]) ** 2).sum(axis=1))
        thresholds.append(naive_threshold(distances[fold != k], same[fold != k]))
        accuracy.append(np.mean((distances[fold == k] < thresholds[-1]) == same[fold == k]))
        kept[fold == k] = distances[fold == k]
    return {"accuracy": accuracy, "threshold": thresholds, "distances": kept}


@pytest.mark.parametrize("variant", STANDARD_VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("dim", [3, 64, 96])
def test_equals_a_plain_loop_with_scikit_learns_pca(variant: Variant, dim: int) -> None:
    case = noisy_people(dim)
    found, expected = verify(*case, variant=variant), naive_verify(*case, variant)
    assert found.distances == pytest.approx(expected["distances"], rel=1e-9)
    assert found.fold_threshold == pytest.approx(expected["threshold"], rel=1e-9)
    assert found.fold_accuracy.tolist() == expected["accuracy"]
    assert found.accuracy == pytest.approx(np.mean(expected["accuracy"]))
    spread = sum((x - found.accuracy) ** 2 for x in expected["accuracy"]) / (5 - 1)
    assert found.standard_error == pytest.approx((spread / 5) ** 0.5)
    oracle = naive_threshold(expected["distances"], case[2])
    assert found.oracle_accuracy == np.mean((expected["distances"] < oracle) == case[2])
    assert found.variant is variant


def test_folds_of_different_size_count_by_their_pairs_in_pca_and_equally_in_the_mean() -> None:
    a, b, same, fold = noisy_people(96)
    chosen = (fold != 1) | (np.arange(len(fold)) < 60)
    case = (a[chosen], b[chosen], same[chosen], fold[chosen])
    found, expected = verify(*case, variant=PCA_64), naive_verify(*case, PCA_64)
    assert found.distances == pytest.approx(expected["distances"], rel=1e-9)
    assert found.accuracy == pytest.approx(np.mean(expected["accuracy"]))


def test_pca_survives_a_large_common_offset() -> None:
    case = noisy_people(96, offset=1e5)
    plain = replace(PCA_64, normalise=False)
    assert verify(*case, variant=plain).distances == pytest.approx(naive_verify(*case, plain)["distances"], rel=1e-6)


@pytest.mark.parametrize("variant", [PCA_64, NO_PCA, RAW], ids=lambda v: v.name)
@pytest.mark.parametrize("dim", [2, 100])
def test_accuracy_is_exactly_what_the_construction_says(variant: Variant, dim: int) -> None:
    wrong = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    found = verify(*known_outcome(wrong, 300, dim), variant=variant)
    per_fold = [(600 - count) / 600 for count in wrong]
    assert found.fold_accuracy.tolist() == per_fold
    assert found.accuracy == pytest.approx(1 - sum(wrong) / 6000)
    assert found.standard_error == pytest.approx(np.std(per_fold, ddof=1) / np.sqrt(10))
    assert found.oracle_accuracy == pytest.approx(1 - sum(wrong) / 6000)
    assert found.fold_threshold == pytest.approx([np.sin(0.1) + np.sin(0.35)] * 10)  # chords 2 sin(angle / 2)


@pytest.mark.parametrize("variant", STANDARD_VARIANTS, ids=lambda v: v.name)
def test_a_fold_has_no_part_in_its_own_threshold_and_pca(variant: Variant) -> None:
    a, b, same, fold = noisy_people(96)
    before = verify(a, b, same, fold, variant=variant)
    changed = (fold == 2) & (np.arange(len(fold)) < 150)
    kept = (fold == 2) & ~changed
    a, b = a.copy(), b.copy()
    a[changed] = np.random.default_rng(1).normal(size=(changed.sum(), 96)) + 50
    b[changed] *= np.linspace(-9, 9, 96)
    after = verify(a, b, same, fold, variant=variant)
    assert after.fold_threshold[2] == before.fold_threshold[2]
    assert after.distances[kept] == pytest.approx(before.distances[kept], rel=1e-13)
    if variant.components:
        assert not np.array_equal(after.distances[fold == 1], before.distances[fold == 1])  # others did notice


def test_the_held_out_labels_do_not_move_the_threshold() -> None:
    a, b, same, fold = noisy_people(16)
    before = verify(a, b, same, fold, variant=NO_PCA)
    after = verify(a, b, np.where(fold == 0, ~same, same), fold, variant=NO_PCA)
    assert after.fold_threshold[0] == before.fold_threshold[0]
    assert after.fold_accuracy[0] == pytest.approx(1 - before.fold_accuracy[0])


@pytest.mark.parametrize("variant", STANDARD_VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_scale_of_the_embeddings_changes_no_accuracy(variant: Variant, scale: float) -> None:
    a, b, same, fold = noisy_people(96)
    small = verify(a * scale, b * scale, same, fold, variant=variant)
    assert small.fold_accuracy.tolist() == verify(a, b, same, fold, variant=variant).fold_accuracy.tolist()


def test_tiny_distances_do_not_get_stuck_at_one_half() -> None:
    a, b, same, fold = known_outcome([3, 6, 9], 50, 8)
    found = verify((a * 1e-6).astype(np.float32), (b * 1e-6).astype(np.float32), same, fold, variant=RAW)
    assert found.fold_accuracy.tolist() == [0.97, 0.94, 0.91]


def test_single_precision_input_is_computed_in_double() -> None:
    a, b, same, fold = noisy_people(96)
    single = [x.astype(np.float32) for x in (a, b)]
    double = [x.astype(np.float64) for x in single]
    for variant in STANDARD_VARIANTS:
        of_single, of_double = (verify(a, b, same, fold, variant=variant).distances for a, b in (single, double))
        assert of_single.dtype == np.float64
        assert np.array_equal(of_single, of_double)


def test_pca_keeps_at_most_the_training_vectors_rank() -> None:
    a, b, same, fold = noisy_people(96, folds=3, size=2)  # 8 training pairs: 16 vectors in 96 dimensions
    found = verify(a, b, same, fold, variant=PCA_64)
    for k in range(3):
        training = np.concatenate([x[fold != k] / np.linalg.norm(x[fold != k], axis=1)[:, None] for x in (a, b)])
        axes = PCA(15, svd_solver="full").fit(training).components_
        difference = a / np.linalg.norm(a, axis=1)[:, None] - b / np.linalg.norm(b, axis=1)[:, None]
        assert found.distances[fold == k] == pytest.approx(np.linalg.norm(difference[fold == k] @ axes.T, axis=1))


def test_a_zero_embedding_stays_at_the_origin() -> None:
    a, b, same, fold = noisy_people(16)
    a[0] = 0
    assert verify(a, b, same, fold, variant=NO_PCA).distances[0] == pytest.approx(1)


def test_the_standard_variants_are_the_protocols() -> None:
    switches = [(v.normalise, v.components, v.renormalise) for v in STANDARD_VARIANTS]
    assert switches == [(True, 64, False), (True, 64, True), (True, None, False), (False, None, False)]
    assert STANDARD_VARIANTS == (PCA_64, PCA_64_RENORMALISED, NO_PCA, RAW)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_counted_and_located(value: float) -> None:
    a, b, same, fold = noisy_people(16)
    a[7, 3] = b[7, 2] = b[20, 0] = value
    with pytest.raises(FacegmError, match=r"in 2 of 300 pairs, first in pair 7 \(counted from 0\)"):
        verify(a, b, same, fold, variant=PCA_64)


@pytest.mark.parametrize("variant", STANDARD_VARIANTS, ids=lambda v: v.name)
def test_constant_embeddings_are_refused(variant: Variant) -> None:
    _, _, same, fold = noisy_people(16)
    constant = np.full((len(same), 16), 0.3, dtype=np.float32)
    rounding = np.random.default_rng(0).choice(np.array([0.3, np.nextafter(np.float32(0.3), 1)], np.float32), (300, 16))
    for b in (constant, constant * 2, rounding):
        with pytest.raises(FacegmError, match="all 300 pairs have the same distance"):
            verify(constant, b, same, fold, variant=variant)
    with pytest.raises(FacegmError, match="all 300 pairs have the same distance 0,"):
        verify(0 * constant, 0 * constant, same, fold, variant=variant)


def test_embeddings_without_direction_are_refused_where_only_direction_counts() -> None:
    a, b, same, fold = noisy_people(1, offset=100)  # all positive numbers: once normalised, all are 1
    verify(np.abs(a), np.abs(b), same, fold, variant=RAW)
    with pytest.raises(FacegmError, match="the same distance 0"):
        verify(np.abs(a), np.abs(b), same, fold, variant=NO_PCA)


def test_folds_must_be_two_and_have_both_kinds() -> None:
    a, b, same, fold = noisy_people(16)
    for bad in (np.zeros_like(fold), fold - 1):
        with pytest.raises(FacegmError, match="at least 2 folds"):
            verify(a, b, same, bad, variant=NO_PCA)
    with pytest.raises(FacegmError, match=r"fold 3 \(counted from 0\) has 0 matched and 0 mismatched"):
        verify(a, b, same, np.where(fold >= 3, fold + 1, fold), variant=NO_PCA)
    with pytest.raises(FacegmError, match=r"fold 4 .* has 60 matched and 0 mismatched"):
        verify(a, b, same | (fold == 4), fold, variant=NO_PCA)
    with pytest.raises(FacegmError, match="at least 2 folds"):
        verify(a[:0], b[:0], same[:0], fold[:0], variant=NO_PCA)


def test_shapes_that_disagree_are_refused() -> None:
    a, b, same, fold = noisy_people(16)
    plain = inspect.unwrap(verify)  # without the tests' own shape checks
    for bad in ((a[1:], b, same, fold), (a[:, 1:], b, same, fold), (a[:, 0], b[:, 0], same, fold)):
        with pytest.raises(FacegmError, match="expected two arrays"):
            plain(*bad, variant=NO_PCA)
    for bad in ((a, b, same[1:], fold), (a, b, same, fold[1:])):
        with pytest.raises(FacegmError, match="300 pairs of embeddings, but same has shape"):
            plain(*bad, variant=NO_PCA)
