"""Scores beside L2, each by a plain computation; that no score learns from the fold it is judged on."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from people import PeoplePairs, people_pairs
from sklearn.decomposition import PCA

from facegm.errors import FacegmError
from facegm.eval import protocol, scores
from facegm.eval.metrics import best_threshold
from facegm.eval.plda import fit_plda
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA, PCA_64, STANDARD_VARIANTS, Cosine, FittedPlda, FoldPlda, Score

PCA_4 = replace(PCA_64, components=4)
PCA_4_RENORMALISED = replace(PCA_4, renormalise=True)


def fold_plda(case: PeoplePairs) -> FoldPlda:
    return FoldPlda(case.people_a, case.people_b, components=4)


def test_cosine_is_one_minus_the_cosine_and_judges_as_l2_at_unit_length() -> None:
    case = people_pairs()
    found = verify(case.a, case.b, case.same, case.fold, variant=Cosine())
    cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(case.a, case.b, strict=True)]
    np.testing.assert_allclose(found.distances, 1 - np.array(cosines), atol=1e-14)
    l2 = verify(case.a, case.b, case.same, case.fold, variant=NO_PCA)
    assert found.fold_accuracy.tolist() == l2.fold_accuracy.tolist()
    assert found.variant.describe() == {"name": "cosine"}


def naive_fold_plda(case: PeoplePairs) -> np.ndarray:
    """Out-of-fold distances with scikit-learn's PCA, every image of the training folds once."""
    distances = np.empty(len(case.fold))
    for held_out in range(case.fold.max() + 1):
        training = case.fold != held_out
        images = sorted({*case.row_a[training].tolist(), *case.row_b[training].tolist()})
        reduced = PCA(4, svd_solver="full").fit(case.embeddings[images])
        fitted = fit_plda(reduced.transform(case.embeddings[images]), case.person[images])
        ratio = fitted.log_likelihood_ratio(reduced.transform(case.a), reduced.transform(case.b))
        distances[~training] = -ratio[~training]
    return distances


def test_plda_of_the_training_folds_counts_each_image_once() -> None:
    case = people_pairs()
    assert len(np.unique(case.row_a)) < len(case.row_a)  # images do occur in several pairs
    found = verify(case.a, case.b, case.same, case.fold, variant=fold_plda(case))
    np.testing.assert_allclose(found.distances, naive_fold_plda(case), rtol=1e-8)
    assert found.accuracy > 0.7
    assert found.variant.describe() == {"name": "PLDA, training folds", "components": 4}


def test_people_of_the_held_out_fold_take_no_part_wherever_their_images_are() -> None:
    """Protects sets whose folds share people, unlike LFW's."""
    case = people_pairs()
    moved = case.fold.copy()
    moved[0] = 2  # a pair of people whose other pairs stay in fold 0
    shared = {int(case.people_a[0]), int(case.people_b[0])}
    changed = case.embeddings.copy()
    changed[np.isin(case.person, [*shared])] += 5
    before, after = (
        list(fold_plda(case).distances_by_fold(x[case.row_a], x[case.row_b], moved)) for x in (case.embeddings, changed)
    )
    others = ~np.isin(case.people_a, [*shared]) & ~np.isin(case.people_b, [*shared])
    for held_out in (0, 2):
        np.testing.assert_array_equal(after[held_out][others], before[held_out][others])
    assert not np.allclose(after[1][others], before[1][others])


def test_plda_of_other_people_is_the_same_in_every_fold() -> None:
    case, others = people_pairs(), people_pairs(seed=1)
    fitted = fit_plda(others.embeddings, others.person, ridge=0.1)
    score = FittedPlda(fitted, name="PLDA, CelebA291")
    by_fold = list(score.distances_by_fold(case.a, case.b, case.fold))
    assert len(by_fold) == 4
    for distances in by_fold:
        np.testing.assert_array_equal(distances, -fitted.log_likelihood_ratio(case.a, case.b))
    assert score.describe() == {"name": "PLDA, CelebA291", "images": len(others.person), "people": 48, "ridge": 0.1}


def test_constant_embeddings_and_people_of_other_pairs_are_refused() -> None:
    case = people_pairs()
    constant = np.full_like(case.a, 0.3)
    fitted = FittedPlda(fit_plda(case.embeddings, case.person))
    for score in (Cosine(), fold_plda(case), fitted):
        assert isinstance(score, Score)
        with pytest.raises(FacegmError, match="all 160 pairs have the same distance"):
            verify(constant, constant, case.same, case.fold, variant=score)
    with pytest.raises(FacegmError, match="160 pairs of embeddings, but people of 159 pairs"):
        verify(case.a, case.b, case.same, case.fold, variant=FoldPlda(case.people_a[1:], case.people_b[1:]))


def shuffled_in_fold(case: PeoplePairs, held_out: int) -> PeoplePairs:
    """The same images, but in one fold everybody is said to be somebody else."""
    inside = np.isin(case.person, case.person[np.r_[case.row_a, case.row_b][np.tile(case.fold == held_out, 2)]])
    person = case.person.copy()
    person[inside] = np.random.default_rng(5).permutation(person[inside])
    return replace(case, person=person)


def assert_nothing_is_learnt_from(held_out: int, score_of: Callable[[PeoplePairs], Score]) -> None:
    """Other labels and people in a fold move neither its threshold nor its distances, by PCA or PLDA."""
    case = people_pairs()
    shuffled = shuffled_in_fold(case, held_out)
    inside = case.fold == held_out
    assert (case.same[inside] != shuffled.same[inside]).any()
    assert (case.same[~inside] == shuffled.same[~inside]).all()
    before, after = (verify(c.a, c.b, c.same, c.fold, variant=score_of(c)) for c in (case, shuffled))
    assert after.fold_threshold[held_out] == before.fold_threshold[held_out]
    np.testing.assert_array_equal(after.distances[inside], before.distances[inside])

    noise = np.random.default_rng(6).normal(size=case.embeddings.shape) * 3
    of_others = ~np.isin(np.arange(len(noise)), np.r_[case.row_a[inside], case.row_b[inside]])
    changed = replace(case, embeddings=np.where(of_others[:, None], case.embeddings, case.embeddings + noise))
    moved = verify(changed.a, changed.b, case.same, case.fold, variant=score_of(changed))
    assert moved.fold_threshold[held_out] == before.fold_threshold[held_out]


def other_people(_: PeoplePairs) -> FittedPlda:
    others = people_pairs(seed=1)
    return FittedPlda(fit_plda(others.embeddings, others.person))


def always(score: Score, _: PeoplePairs) -> Score:
    return score


VARIANTS = (*STANDARD_VARIANTS, PCA_4, PCA_4_RENORMALISED)
SCORES: dict[str, Callable[[PeoplePairs], Score]] = {
    **{f"{variant.name} ({variant.components})": partial(always, variant) for variant in VARIANTS},
    "cosine": partial(always, Cosine()),
    "PLDA, training folds": fold_plda,
    "PLDA, other people": other_people,
}


@pytest.mark.parametrize("name", SCORES)
def test_no_score_learns_from_the_fold_it_is_judged_on(name: str) -> None:
    for held_out in (0, 3):
        assert_nothing_is_learnt_from(held_out, SCORES[name])


def pca_of_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[PeoplePairs], Score]:
    def leaking(vectors: np.ndarray, fold: np.ndarray, components: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        fitted = PCA(components, svd_solver="full").fit(vectors)
        yield from [(fitted.mean_, fitted.components_.T)] * (int(fold.max()) + 1)

    monkeypatch.setattr(scores, "pca_by_fold", leaking)
    return partial(always, PCA_4)


def plda_of_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[PeoplePairs], Score]:
    def leaking(case: PeoplePairs) -> Score:
        fitted = fit_plda(case.embeddings, case.person, components=4)
        monkeypatch.setattr(scores, "fit_plda", lambda *_, **__: fitted)
        return fold_plda(case)

    return leaking


def threshold_of_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[PeoplePairs], Score]:
    def leaking(case: PeoplePairs) -> Score:
        distances = next(NO_PCA.distances_by_fold(case.a, case.b, case.fold))
        best = best_threshold(distances, case.same)
        monkeypatch.setattr(protocol, "best_threshold", lambda *_: best)
        return NO_PCA

    return leaking


@pytest.mark.parametrize("leak", [pca_of_all, plda_of_all, threshold_of_all])
def test_a_planted_leak_is_found(
    leak: Callable[[pytest.MonkeyPatch], Callable[[PeoplePairs], Score]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the test above: a fit on all pairs must make it fail."""
    with pytest.raises(AssertionError):
        assert_nothing_is_learnt_from(0, leak(monkeypatch))
