"""Identification against a brute-force search in float64, the splits, and ties and mates that others outrank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.data.progress import Progress
from facegm.errors import FacegmError
from facegm.eval.identification import NO_MATE, Search, search
from facegm.eval.identification_split import draw_split, mean_templates
from facegm.eval.rates import Rate


def noisy_people(seed: int, templates: int = 15, probes: int = 60, dim: int = 8) -> tuple[np.ndarray, ...]:
    """Templates, and probes of some of their people and of others, of any length."""
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(templates, dim)) * rng.uniform(0.1, 9, (templates, 1))
    mate = rng.integers(-10, templates, probes).clip(NO_MATE)
    clean = np.where((mate == NO_MATE)[:, None], rng.normal(size=(probes, dim)), gallery[mate])
    clean /= np.linalg.norm(clean, axis=1, keepdims=True)
    return gallery, (clean + 0.4 * rng.normal(size=clean.shape)) * rng.uniform(0.1, 9, (probes, 1)), mate


def naive_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


@pytest.mark.parametrize("seed", range(4))
def test_ranks_and_distances_are_those_of_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, probes, mate = noisy_people(seed)
    ranks, mates, nearest = [], [], []
    for probe, own in zip(probes, mate.tolist(), strict=True):
        distances = [naive_distance(probe, template) for template in gallery]
        if own == NO_MATE:
            nearest.append(min(distances))
        else:
            ranks.append(1 + sum(distance < distances[own] for distance in distances))
            mates.append(distances[own])
    assert len(set(ranks)) > 2
    for block in (1 << 24, 100, 1):
        monkeypatch.setattr("facegm.eval.identification._BLOCK", block)
        found = search(gallery, probes, mate)
        assert found.templates == len(gallery)
        assert found.rank.tolist() == ranks
        assert found.mate == pytest.approx(mates, abs=1e-6)
        assert found.nearest == pytest.approx(nearest, abs=1e-6)


def test_progress_counts_every_probe() -> None:
    counted = []

    class Counter(Progress):
        def update(self, count: int) -> None:
            counted.append(count)

    gallery, probes, mate = noisy_people(0)
    search(gallery, probes, mate, progress=Counter("identify", 60, "images", is_shown=False))
    assert sum(counted) == len(probes)


@st.composite
def searches(draw: st.DrawFn) -> Search:
    """With many ties."""

    def distances(least: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(0, 8), min_size=least, max_size=30)), np.float32) / 8

    mate = distances(1)
    rank = draw(st.lists(st.integers(1, 6), min_size=len(mate), max_size=len(mate)))
    return Search(templates=6, rank=np.array(rank), mate=mate, nearest=distances(1))


@given(searches(), st.sampled_from([0.5, 0.3, 0.1, 0.02]), st.integers(1, 6))
def test_open_set_rates_are_the_best_of_all_thresholds_within_the_bound(found: Search, bound: float, rank: int) -> None:
    best = (-1, 0, 0)
    for threshold in {*found.mate.tolist(), *found.nearest.tolist(), 2.0}:
        positives = sum(distance < threshold for distance in found.nearest.tolist())
        if positives * 100 <= round(bound * 100) * len(found.nearest):
            both = zip(found.rank.tolist(), found.mate.tolist(), strict=True)
            best = max(best, (sum(own <= rank and distance < threshold for own, distance in both), positives, 0))
    rate = found.open_set(bound, rank=rank)
    assert rate.identified == Rate(count=best[0], trials=len(found.rank))
    assert rate.false_positives.count == sum(distance < rate.threshold for distance in found.nearest.tolist())
    assert rate.false_positives.count * 100 <= round(bound * 100) * len(found.nearest)
    assert (rate.rate is None) == (round(bound * 100) * len(found.nearest) < 100)


@given(searches())
def test_cumulative_match_is_the_closed_set_rate_of_each_rank(found: Search) -> None:
    for ranks in (1, 3, 6):
        naive = [sum(own <= rank for own in found.rank.tolist()) / len(found.rank) for rank in range(1, ranks + 1)]
        assert found.cumulative_match(ranks) == pytest.approx(naive)
        assert [found.closed_set(rank).value for rank in range(1, ranks + 1)] == pytest.approx(naive)


def test_the_mate_must_rank_first_however_near_it_is() -> None:
    gallery = np.array([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0]])
    probes = np.array([[0.97, 0.24], [1.0, 0.02], [-1.0, 0.0]])  # the first is nearer to another than to its mate
    found = search(gallery, probes, np.array([0, 0, NO_MATE]))
    assert found.rank.tolist() == [2, 1]
    assert (found.mate < found.open_set(0.0).threshold).all()
    assert found.open_set(0.0).identified == Rate(count=1, trials=2)
    assert found.open_set(0.0, rank=2).identified == Rate(count=2, trials=2)


def test_what_is_as_near_as_the_mate_ranks_before_it() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(300, 64))
    gallery[[7, 150, 299]] = gallery[7]  # one photo under three names, at places that BLAS treats unlike
    found = search(gallery, gallery[[7, 150, 299, 8]] + 0.01, np.array([7, 150, 299, 8]))
    assert found.rank.tolist() == [3, 3, 3, 1]
    collapsed = search(np.ones((9, 4)), np.ones((5, 4)), np.array([0, 3, 8, NO_MATE, NO_MATE]))
    assert collapsed.rank.tolist() == [9, 9, 9]
    assert collapsed.open_set(0.5).identified == Rate(count=0, trials=3)


def test_a_mate_as_near_as_the_threshold_is_no_candidate() -> None:
    found = Search(
        templates=2,
        rank=np.array([1, 1]),
        mate=np.array([0.25, 0.5], np.float32),
        nearest=np.array([0.5, 0.75], np.float32),
    )
    assert found.open_set(0.0).threshold == 0.5
    assert found.open_set(0.0).identified == Rate(count=1, trials=2)


def test_each_gallery_has_its_own_threshold() -> None:
    # The stranger to the one gallery is near to it, that to the other far: together they would have one threshold.
    strict = search(np.eye(2), np.array([[1.0, 0.3], [0.8, 0.1]]), np.array([0, NO_MATE]))
    loose = search(np.eye(2), np.array([[1.0, 0.3], [-1.0, -1.0]]), np.array([0, NO_MATE]))
    assert [found.open_set(0.0).identified.count for found in (strict, loose)] == [0, 1]


@pytest.mark.parametrize(
    ("non_mated", "is_measurable", "is_rough"), [(99, False, True), (100, True, True), (1000, True, False)]
)
def test_a_bound_that_too_few_strangers_carry_is_not_measurable(
    non_mated: int, is_measurable: bool, is_rough: bool
) -> None:
    nearest = np.linspace(0.5, 1, non_mated, dtype=np.float32)
    found = Search(templates=1, rank=np.ones(4, np.int64), mate=np.zeros(4, np.float32), nearest=nearest)
    rate = found.open_set(0.01)
    assert rate.rate == (1 if is_measurable else None)
    assert (rate.describe()["interval"] is not None) == is_measurable
    assert rate.is_rough == is_rough


def test_broken_embeddings_and_a_want_of_strangers_are_refused() -> None:
    gallery, probes, mate = noisy_people(0)
    with pytest.raises(FacegmError, match="gallery: NaN or infinity"):
        search(np.where(gallery > 5, np.inf, gallery), probes, mate)
    with pytest.raises(FacegmError, match="probes: NaN or infinity"):
        search(gallery, np.where(probes > 5, np.nan, probes), mate)
    with pytest.raises(FacegmError, match="no non-mated probes"):
        search(gallery, probes[mate >= 0], mate[mate >= 0]).open_set(0.1)


PEOPLE = np.random.default_rng(0).permutation(np.repeat(np.arange(20) * 3, [1, 2, 3, 4] * 5))


@pytest.mark.parametrize(("gallery_images", "non_mated"), [(1, 0.5), (2, 0.25), (1, 0.0), (3, 0.1)])
def test_splits_keep_people_and_images_apart(gallery_images: int, non_mated: float) -> None:
    split = draw_split(PEOPLE, gallery_images=gallery_images, non_mated=non_mated, seed=1)
    assert sorted([*split.enrolled, *split.probes]) == [*range(len(PEOPLE))], "every image has one part"
    in_gallery = set(PEOPLE[split.enrolled].tolist())
    assert len(in_gallery) == 20 - round(non_mated * 20) == split.template[-1] + 1
    for person in in_gallery:
        images = PEOPLE.tolist().count(person)
        assert PEOPLE[split.enrolled].tolist().count(person) == min(images, gallery_images)
        assert len({*split.template[PEOPLE[split.enrolled] == person].tolist()}) == 1
    person_of = dict(zip(split.template.tolist(), PEOPLE[split.enrolled].tolist(), strict=True))
    for row, mate in zip(split.probes.tolist(), split.mate.tolist(), strict=True):
        if mate == NO_MATE:
            assert PEOPLE[row] not in in_gallery
        else:
            assert PEOPLE[row] == person_of[mate]


def test_splits_follow_from_their_seed() -> None:
    drawn = [draw_split(PEOPLE, gallery_images=1, non_mated=0.5, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0].enrolled, drawn[1].enrolled)
    assert np.array_equal(drawn[0].probes, drawn[1].probes)
    assert {*drawn[0].enrolled.tolist()} != {*drawn[2].enrolled.tolist()}
    # Over many seeds each of a person's images is enrolled about as often as the others.
    row = np.flatnonzero(np.bincount(PEOPLE)[PEOPLE] == 4)[0]
    times = [row in draw_split(PEOPLE, gallery_images=1, non_mated=0.0, seed=seed).enrolled for seed in range(400)]
    assert np.mean(times) == pytest.approx(1 / 4, abs=0.07)


def test_a_set_without_a_second_image_has_no_probes() -> None:
    with pytest.raises(FacegmError, match="of 5 people none has more images than the 1 for the gallery"):
        draw_split(np.arange(5), gallery_images=1, non_mated=0.0, seed=0)


def test_templates_are_means_of_unit_vectors() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(len(PEOPLE), 5)) * rng.uniform(0.1, 9, (len(PEOPLE), 1))
    split = draw_split(PEOPLE, gallery_images=3, non_mated=0.1, seed=0)
    templates = mean_templates(embeddings, split)
    for number in range(len(templates)):
        own = embeddings[split.enrolled[split.template == number]]
        assert templates[number] == pytest.approx(np.mean([x / np.linalg.norm(x) for x in own], axis=0), abs=1e-6)
