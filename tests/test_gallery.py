"""The gallery: who is there after any sequence of changes, strict enrolment, and whose embeddings are taken."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import CONTRACT, DIM, at_distance, drawn, new_gallery
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError, UsageError
from facegm.gallery import file as file_module
from facegm.gallery.database import Database
from facegm.gallery.enrolment import NewSample
from facegm.gallery.file import GalleryFile, UnknownPersonError
from facegm.gallery.gallery import Gallery
from facegm.gallery.index import ExactIndex
from facegm.gallery.people_search import PeopleSearch

NAMES = st.sampled_from(["Ann", "Bob", "Cy", "Dee"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enroll"), NAMES, st.integers(1, 4)),
        st.tuples(st.just("remove"), NAMES, st.none()),
        st.tuples(st.just("remove sample"), st.integers(0, 20), st.none()),
        st.tuples(st.just("rename"), NAMES, NAMES),
        st.tuples(st.just("merge"), NAMES, NAMES),
        st.tuples(st.just("reopen"), st.none(), st.none()),
    ),
    max_size=14,
)
Model = dict[str, dict[int, np.ndarray]]


def nearest_people(model: Model, query: np.ndarray, k: int) -> list[tuple[str, int, float]]:
    """By each person's nearest sample, one after the other in float64."""
    best = []
    for name, samples in model.items():
        distances = [(float(np.linalg.norm(v.astype(np.float64) - query)), key) for key, v in samples.items()]
        best.append((*min(distances), name))
    return [(name, key, distance) for distance, key, name in sorted(best)[:k]]


def assert_equals_model(gallery: Gallery, model: Model, seed: int) -> None:
    assert gallery.people == {name: len(samples) for name, samples in sorted(model.items())}
    assert len(gallery) == sum(map(len, model.values()))
    for name, samples in model.items():
        assert [sample.id for sample in gallery.samples(name)] == sorted(samples)
    queries = np.concatenate([drawn(seed, 2), *(vector[None] for s in model.values() for vector in s.values())])
    for k in (1, 3, 10):
        for query, matches in zip(queries, gallery.search(queries, k=k), strict=True):
            found = [(match.name, match.sample_id) for match in matches]
            expected = nearest_people(model, query, k)
            assert found == [(name, key) for name, key, _ in expected]
            np.testing.assert_allclose([match.distance for match in matches], [d for *_, d in expected], atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(STEPS, st.integers(0, 2**16))
def test_any_sequence_of_changes_leaves_what_a_dictionary_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]], seed: int
) -> None:
    """Two open galleries of one file: one is changed, the other sees it, and its index as well."""
    folder = tmp_path_factory.mktemp("gallery")
    gallery, model = new_gallery(folder), Model()
    index = ExactIndex(DIM)
    file = GalleryFile(folder / "people.gallery", CONTRACT)
    other = Gallery(file, PeopleSearch(file, index))
    for number, (step, who, what) in enumerate(steps):
        if step == "enroll":
            vectors = drawn(seed + number, what)
            outcomes = gallery.enroll(who, vectors, strict=False)
            assert all(outcome.reason is None for outcome in outcomes)
            added = {outcome.sample_id or 0: vector for outcome, vector in zip(outcomes, vectors, strict=True)}
            model.setdefault(who, {}).update(added)
        elif step == "remove" and who in model:
            gallery.remove(who)
            del model[who]
        elif step == "remove sample" and any(who in samples for samples in model.values()):
            gallery.remove(who)
            model = {n: left for n, s in model.items() if (left := {key: v for key, v in s.items() if key != who})}
        elif step == "rename" and who in model and (what not in model or what == who):
            gallery.rename(who, what)
            model[what] = model.pop(who)
        elif step == "merge" and who in model and what in model:
            gallery.merge(who, what)
            samples = model.pop(who)
            model[what] = model.get(what, {}) | samples
        elif step == "reopen":
            gallery.close()
            gallery = Gallery.open(folder / "people.gallery", CONTRACT)
        elif step != "rename":
            with pytest.raises(UnknownPersonError):
                gallery.merge(who, what) if step == "merge" else gallery.remove(who)
        assert_equals_model(other if number % 2 else gallery, model, seed)
        if number % 2:
            assert sorted(index.ids().tolist()) == sorted(key for samples in model.values() for key in samples)
    gallery.close()
    other.close()
    assert [file.name for file in folder.iterdir()] == ["people.gallery"], "one file"


def test_people_of_many_samples_do_not_hide_others(tmp_path: Path) -> None:
    """All hundred of the nearest samples are of one person."""
    with new_gallery(tmp_path) as gallery:
        ann, others = drawn(0), drawn(1, 3)
        gallery.enroll("Ann", drawn(2, 100, around=ann), strict=False)
        for name, vector in zip(("Bob", "Cy", "Dee"), others, strict=True):
            gallery.enroll(name, vector[None], strict=False)
        expected = ["Ann", *(np.array(["Bob", "Cy", "Dee"])[np.linalg.norm(others - ann, axis=1).argsort()])]
        assert [match.name for match in gallery.search(ann, k=4)[0]] == expected


def test_strict_enrolment_wants_a_sample_nearer_to_its_own_person(tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery:
        ann = drawn(0)[0]
        bob = at_distance(1.2, ann, drawn(1)[0])
        gallery.enroll("Ann", ann[None])
        gallery.enroll("Bob", bob[None], threshold=1.1)
        nearer_to_ann, nearer_to_bob = at_distance(0.3, ann, bob), at_distance(0.9, ann, bob)
        (taken,) = gallery.enroll("Ann", nearer_to_ann[None], threshold=1.1)
        assert taken.reason is None
        (refused,) = gallery.enroll("Ann", nearer_to_bob[None], threshold=1.1)
        assert refused.reason == Reason.NEARER_TO_ANOTHER
        assert refused.sample_id is None
        assert "nearer to Bob at" in refused.message
        assert gallery.people == {"Ann": 2, "Bob": 1}
        (forced,) = gallery.enroll("Ann", nearer_to_bob[None], strict=False)
        assert forced.reason is None
        assert gallery.people == {"Ann": 3, "Bob": 1}


@pytest.mark.parametrize(
    ("distance", "threshold", "is_taken"), [(1.0, 1.1, False), (1.2, 1.1, True), (0.3, None, True)]
)
def test_a_first_sample_within_the_threshold_of_somebody_else_is_refused(
    distance: float, threshold: float | None, is_taken: bool, tmp_path: Path
) -> None:
    with new_gallery(tmp_path) as gallery:
        ann = drawn(0)[0]
        gallery.enroll("Ann", ann[None])
        (enrolment,) = gallery.enroll("Bob", at_distance(distance, ann, drawn(1)[0])[None], threshold=threshold)
        assert enrolment.reason == (None if is_taken else Reason.NEARER_TO_ANOTHER)
        assert ("Bob" in gallery.people) == is_taken


def test_samples_of_one_call_are_judged_against_those_before(tmp_path: Path) -> None:
    """Photos of Ann of which the third is filed under Bob, and Bob's own after it."""
    ann, bob = drawn(0), drawn(1)
    vectors = [*drawn(2, 2, around=ann), *drawn(3, 1, around=ann), *drawn(4, 2, around=bob)]
    names = ["Ann", "Ann", "Bob", "Bob", "Bob"]
    samples = [NewSample(name=name, embedding=vector) for name, vector in zip(names, vectors, strict=True)]
    with new_gallery(tmp_path) as gallery:
        reasons = [enrolment.reason for enrolment in gallery.enroll_all(samples, threshold=0.9)]
        assert reasons == [None, None, Reason.NEARER_TO_ANOTHER, None, None]
        assert gallery.people == {"Ann": 2, "Bob": 2}


@pytest.mark.parametrize("seed", range(3))
def test_many_samples_of_one_call_are_judged_as_a_naive_loop_does(seed: int, tmp_path: Path) -> None:
    rng, centres = np.random.default_rng(seed), drawn(seed, 6)
    people = rng.integers(0, 6, 150)
    people[40:48] = people[:8]
    vectors = np.concatenate([drawn(1000 + n, around=centres[person], spread=1.2) for n, person in enumerate(people)])
    vectors[40:50] = vectors[:10]  # some are there already, or somebody else's
    taken: list[tuple[int, np.ndarray]] = []
    expected: list[Reason | None] = []
    for person, vector in zip(people.tolist(), vectors.astype(np.float64), strict=True):
        own = min([float(np.linalg.norm(known - vector)) for of, known in taken if of == person], default=None)
        other = min([float(np.linalg.norm(known - vector)) for of, known in taken if of != person], default=np.inf)
        if own is not None and own <= 1e-4:
            expected.append(Reason.ALREADY_ENROLLED)
        elif other < 0.8 if own is None else other <= own:
            expected.append(Reason.NEARER_TO_ANOTHER)
        else:
            expected.append(None)
            taken.append((person, vector))
    samples = [NewSample(name=f"P{person}", embedding=v) for person, v in zip(people, vectors, strict=True)]
    with new_gallery(tmp_path) as gallery:
        assert [done.reason for done in gallery.enroll_all(samples, threshold=0.8)] == expected
    assert {None, Reason.NEARER_TO_ANOTHER, Reason.ALREADY_ENROLLED} == set(expected)


def test_what_is_there_already_is_said_so(tmp_path: Path) -> None:
    first, second = drawn(0, 2)
    with new_gallery(tmp_path) as gallery:
        samples = [
            NewSample(name="Ann", embedding=first, digest="d1"),
            NewSample(name="Ann", embedding=first, digest="another file, the same pixels"),
            NewSample(name="Ann", embedding=drawn(1, around=first, spread=1e-5)[0]),  # another batch's rounding
            NewSample(name="Ann", embedding=second, digest="d1"),
            NewSample(name="Ann", embedding=drawn(2, around=first, spread=1e-2)[0]),  # another photo
        ]
        enrolments = gallery.enroll_all(samples)
        already = Reason.ALREADY_ENROLLED
        assert [enrolment.reason for enrolment in enrolments] == [None, already, already, already, None]
        assert [enrolment.sample_id for enrolment in enrolments[:4]] == [enrolments[0].sample_id] * 4
        assert gallery.people == {"Ann": 2}


def test_another_gallery_joins(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with new_gallery(tmp_path) as gallery, new_gallery(tmp_path / "other") as other:
        gallery.enroll("Ann", drawn(0, 2), strict=False)
        other.enroll("Ann", np.concatenate([drawn(0), drawn(1)]), sources=["a.jpg", "b.jpg"], strict=False)
        other.enroll("Bob", drawn(2), strict=False)
        reasons = [enrolment.reason for enrolment in gallery.enroll_gallery(tmp_path / "other" / "people.gallery")]
        assert reasons == [Reason.ALREADY_ENROLLED, None, None]
        assert gallery.people == {"Ann": 3, "Bob": 1}
        assert [sample.source for sample in gallery.samples("Ann")] == [None, None, "b.jpg"]
        assert gallery.search(drawn(2), k=1)[0][0].name == "Bob"


def test_another_gallery_may_change_while_it_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample goes right after its person is first read: what is taken of the person belongs together all the same."""
    (tmp_path / "other").mkdir()
    path, query = tmp_path / "other" / "people.gallery", Database.query

    def then_one_is_removed(self: Database, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        rows = query(self, statement, parameters)
        if self.path == path and "WHERE name = ?" in statement:
            with sqlite3.connect(path) as another:
                another.execute("DELETE FROM samples WHERE id = 1")
            another.close()
        return rows

    with new_gallery(tmp_path) as gallery, new_gallery(tmp_path / "other") as other:
        other.enroll("Ann", drawn(0, 3), sources=["0", "1", "2"], strict=False)
        monkeypatch.setattr(Database, "query", then_one_is_removed)
        gallery.enroll_gallery(path)
        by_id = {sample.id: sample.source for sample in gallery.samples("Ann")}
        assert [by_id[match.sample_id] for (match,) in gallery.search(drawn(0, 3))] == ["0", "1", "2"]


def test_another_models_embeddings_are_refused(tmp_path: Path) -> None:
    new_gallery(tmp_path).close()
    other = EmbeddingContract(weights="cc" * 32, preprocessing="bb" * 32, dim=DIM)
    for opened in (Gallery.open, Gallery.create):
        with pytest.raises(FacegmError, match=r"people\.gallery: holds another model's embeddings"):
            opened(tmp_path / "people.gallery", other)
    (tmp_path / "other").mkdir()
    Gallery.create(tmp_path / "other" / "people.gallery", other).close()
    with new_gallery(tmp_path) as gallery, pytest.raises(FacegmError, match="another model's"):
        gallery.enroll_gallery(tmp_path / "other" / "people.gallery")


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones((1, DIM)), "not of unit length"),
        (np.full((1, DIM), np.nan), "not finite"),
        (np.zeros((1, DIM)), "not of unit length"),
        (np.ones((1, DIM + 1)), rf"shape \[1, {DIM + 1}\]; the gallery takes \[samples, {DIM}\]"),
        (np.ones(DIM), r"takes \[samples, 16\]"),
    ],
)
def test_embeddings_that_are_none_are_refused(embeddings: np.ndarray, message: str, tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery:
        with pytest.raises(FacegmError, match=message):
            gallery.search(embeddings)
        if embeddings.ndim == 2:
            with pytest.raises(FacegmError, match=message):
                gallery.enroll("Ann", embeddings)
        assert gallery.people == {}


@pytest.mark.parametrize("name", ["", " Ann", "A\nB", "x" * 201, "\udcff"])
def test_names_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery, pytest.raises(FacegmError, match="expected 1 to 200 printable characters"):
        gallery.enroll(name, drawn(0))


@pytest.mark.parametrize("name", ["a/b", "/", "Ann/samples/1", "\N{REPLACEMENT CHARACTER}"])
def test_a_name_can_be_part_of_an_address(name: str, tmp_path: Path) -> None:
    """Servers decode `%2F` before they look whom an address names, and bytes that are no text to U+FFFD."""
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0))
        for way in (
            gallery.remove,
            lambda name: gallery.rename("Ann", name),
            lambda name: gallery.enroll(name, drawn(1)),
        ):
            with pytest.raises(UsageError, match="no slash"):
                way(name)
        assert gallery.people == {"Ann": 1}


def test_one_name_in_two_unicode_forms_is_one_person(tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Jos\u00e9", drawn(0), strict=False)
        gallery.enroll("Jose\u0301", drawn(1), strict=False)
        assert gallery.people == {"Jos\u00e9": 2}
        assert len(gallery.samples("Jose\u0301")) == 2
        gallery.remove("Jose\u0301")
        assert gallery.people == {}


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0), strict=False)
        gallery.enroll("Bob", drawn(1), strict=False)
        with pytest.raises(FacegmError, match="Bob is there already; merge the two"):
            gallery.rename("Ann", "Bob")
        assert gallery.people == {"Ann": 1, "Bob": 1}


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    with pytest.raises(FacegmError, match="no such gallery"):
        Gallery.open(path)
    assert not path.exists()
    path.write_bytes(b"JPEG or so" * 1000)
    for opened in (Gallery.open, Gallery.create):
        with pytest.raises(FacegmError, match="not a gallery"):
            opened(path, CONTRACT)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE faces (id)").connection.close()
    for opened in (Gallery.open, Gallery.create):
        with pytest.raises(FacegmError, match="not a gallery"):
            opened(path, CONTRACT)


def test_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an embedding in the file: SQLite itself has no checksums. Asked again and again, the index does not grow."""
    monkeypatch.setattr(file_module, "ROWS", 2)
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0, 6), strict=False)
    path = tmp_path / "people.gallery"
    content, embedding = path.read_bytes(), drawn(0, 6)[4].astype("<f4").tobytes()
    path.write_bytes(content.replace(embedding, embedding[:12] + b"\xff\xff\xff\xff" + embedding[16:]))
    file, index = GalleryFile(path, CONTRACT), ExactIndex(DIM)
    with Gallery(file, PeopleSearch(file, index)) as gallery:
        for _ in range(3):
            with pytest.raises(FacegmError, match=r"people\.gallery: damaged embeddings"):
                gallery.search(drawn(1))
    assert index.ids().tolist() == [1, 2, 3, 4]


def test_what_is_removed_is_gone_from_the_file(tmp_path: Path) -> None:
    """An embedding says who somebody is; removing it must not leave it in free pages."""
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0), sources=["private/holiday.jpg"], strict=False)
        gallery.enroll("Bob", drawn(1), strict=False)
        assert drawn(0)[0].tobytes() in (tmp_path / "people.gallery").read_bytes()
        gallery.remove("Ann")
        content = (tmp_path / "people.gallery").read_bytes()
        assert drawn(0)[0].tobytes() not in content
        assert b"holiday" not in content
        assert drawn(1)[0].tobytes() in content
