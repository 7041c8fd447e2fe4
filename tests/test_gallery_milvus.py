"""Protects galleries in a collection of Milvus, tried on milvus-lite, which takes the calls that a cluster takes."""

import itertools
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import CONTRACT, DIM, at_distance, drawn, new_gallery

from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError, UsageError
from facegm.gallery import milvus_collection, milvus_store
from facegm.gallery.enrolment import NewSample
from facegm.gallery.file import UnknownPersonError
from facegm.gallery.gallery import Gallery

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database for all tests, which takes a second to open."""
    path = str(tmp_path_factory.mktemp("milvus") / "trial.db")
    client = pymilvus.MilvusClient(path)
    yield path
    client.close()


@pytest.fixture
def address(database: str, request: pytest.FixtureRequest) -> str:
    return f"milvus+{database}/{request.node.name.partition('[')[0]}"


Model = dict[str, dict[int, np.ndarray]]


def nearest_people(model: Model, query: np.ndarray) -> list[tuple[str, int, float]]:
    """By each person's nearest sample, one after the other in float64."""
    best = []
    for name, samples in model.items():
        distances = [(float(np.linalg.norm(v.astype(np.float64) - query)), key) for key, v in samples.items()]
        best.append((*min(distances), name))
    return [(name, key, distance) for distance, key, name in sorted(best)]


def assert_equals_model(gallery: Gallery, model: Model, seed: int) -> None:
    assert gallery.people == {name: len(samples) for name, samples in sorted(model.items())}
    for name, samples in model.items():
        assert [sample.id for sample in gallery.samples(name)] == sorted(samples)
    queries = np.concatenate([drawn(seed, 2), *(vector[None] for s in model.values() for vector in s.values())])
    for k in (1, 10):
        for query, matches in zip(queries, gallery.search(queries, k=k), strict=True):
            expected = nearest_people(model, query)[:k]
            assert [(match.name, match.sample_id) for match in matches] == [(name, key) for name, key, _ in expected]
            # Milvus has squares in float32: their errors are those of 1, and grow by the root near 0.
            assert [match.distance for match in matches] == pytest.approx([d for *_, d in expected], abs=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_of_changes_leaves_what_a_dictionary_holds(
    address: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two open galleries of one collection: one is changed, the other sees it at once; rows are read in many parts."""
    for module in (milvus_collection, milvus_store):
        monkeypatch.setattr(module, "ROWS", 3)
    ids = itertools.count(2**53 - 99)
    monkeypatch.setattr(secrets, "randbits", lambda _: next(ids))  # ascending, as the model has them
    address += str(seed)
    rng, model = np.random.default_rng(seed), Model()
    gallery, other = Gallery.create(address, CONTRACT), Gallery.open(address)
    assert other.uuid == gallery.uuid
    for number in range(14):
        who, whom = (str(name) for name in rng.choice(["Ann", "Bob", "Cy"], 2, replace=False))
        match rng.choice(["enroll", "enroll", "remove", "sample", "rename", "merge", "reopen"]):
            case "enroll":
                vectors = drawn(100 * seed + number, int(rng.integers(1, 5)))
                outcomes = gallery.enroll(who, vectors, strict=False)
                added = {outcome.sample_id or 0: vector for outcome, vector in zip(outcomes, vectors, strict=True)}
                model.setdefault(who, {}).update(added)
            case "remove" if who in model:
                gallery.remove(who)
                del model[who]
            case "sample" if who in model:
                gone = max(model[who])
                gallery.remove(gone)
                del model[who][gone]
                model = {name: samples for name, samples in model.items() if samples}
                with pytest.raises(UnknownPersonError, match=f"no sample {gone}"):
                    gallery.remove(gone)
            case "rename" if who in model and whom not in model:
                gallery.rename(who, whom)
                model[whom] = model.pop(who)
            case "merge" if who in model and whom in model:
                gallery.merge(who, whom)
                model[whom] |= model.pop(who)
            case "merge" | "remove" if who not in model:
                with pytest.raises(UnknownPersonError, match=f"nobody is called {who}"):
                    gallery.merge(who, whom)
            case "rename" if who in model:
                with pytest.raises(FacegmError, match=f"{whom} is there already"):
                    gallery.rename(who, whom)
            case "reopen":
                gallery.close()
                gallery = Gallery.open(address, CONTRACT)
        assert_equals_model(other if number % 2 else gallery, model, seed)
    gallery.close()
    other.close()


def test_strict_enrolment_is_that_of_a_file(address: str, tmp_path: Path) -> None:
    ann = drawn(0)[0]
    bob = at_distance(1.2, ann, drawn(1)[0])
    samples = [("Ann", ann), ("Bob", bob), ("Ann", at_distance(0.3, ann, bob)), ("Ann", at_distance(0.9, ann, bob))]
    samples += [("Cy", at_distance(0.2, bob, ann)), ("Bob", bob)]
    reasons = []
    for gallery in (new_gallery(tmp_path), Gallery.create(address, CONTRACT)):
        with gallery:
            outcomes = [gallery.enroll(name, vector[None], threshold=1.1)[0] for name, vector in samples]
            reasons.append([outcome.reason for outcome in outcomes])
    assert reasons[0] == reasons[1]
    assert reasons[0][2:] == [None, Reason.NEARER_TO_ANOTHER, Reason.NEARER_TO_ANOTHER, Reason.ALREADY_ENROLLED]


def test_a_gallery_moves_from_a_file_to_a_cluster(address: str, tmp_path: Path) -> None:
    with new_gallery(tmp_path) as file, Gallery.create(address, CONTRACT) as cluster:
        for seed, name in enumerate(["Ann", "Bob"]):
            file.enroll(name, drawn(seed, 3), sources=[f"{name}-{i}.jpg" for i in range(3)], strict=False)
        assert cluster.search(drawn(0)) == [[]]
        cluster.enroll_gallery(tmp_path / "people.gallery")
        assert cluster.people == file.people
        assert [sample.source for sample in cluster.samples("Bob")] == ["Bob-0.jpg", "Bob-1.jpg", "Bob-2.jpg"]
        np.testing.assert_array_equal(
            [[match.name, match.distance < 1e-3] for match, *_ in cluster.search(drawn(1, 3))], [["Bob", True]] * 3
        )


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\", "\\n", '\\" or id > 0 or name == "', "日本語", "Zoë", "{x}"])
def test_a_name_is_only_ever_a_name(database: str, name: str) -> None:
    with Gallery.create(f"milvus+{database}/names", CONTRACT) as gallery:
        gallery.enroll("somebody else", drawn(0), strict=False)
        gallery.enroll(name, drawn(1, 2), strict=False)
        assert gallery.people == {"somebody else": 1, name: 2}
        gallery.remove(name)
        assert gallery.people == {"somebody else": 1}


def test_another_models_embeddings_are_refused(address: str) -> None:
    Gallery.create(address, CONTRACT).close()
    for other in (
        EmbeddingContract(weights="cc" * 32, preprocessing=CONTRACT.preprocessing, dim=DIM),
        EmbeddingContract(weights=CONTRACT.weights, preprocessing=CONTRACT.preprocessing, dim=DIM + 1),
    ):
        for opened in (Gallery.open, Gallery.create):
            with pytest.raises(FacegmError, match="another model's embeddings"):
                opened(address, other)
    with Gallery.open(address) as gallery:
        assert gallery.contract == CONTRACT
        with pytest.raises(FacegmError, match=r"shape \[1, 17\]"):
            gallery.search(np.eye(1, DIM + 1))


def test_what_is_no_gallery_is_refused(database: str, address: str) -> None:
    with pytest.raises(FacegmError, match="no such gallery"):
        Gallery.open(address)
    client = pymilvus.MilvusClient(database)
    client.create_collection("foreign", dimension=DIM)
    with pytest.raises(FacegmError, match="not a gallery"):
        Gallery.create(f"milvus+{database}/foreign", CONTRACT)
    Gallery.create(address, CONTRACT).close()
    collection = address.rpartition("/")[2]
    for described, message in (({"format": 2}, "format 2"), ({"format": 1}, "contract cannot be read")):
        client.alter_collection_properties(collection, properties={"facegm.gallery": json.dumps(described)})
        with pytest.raises(FacegmError, match=message):
            Gallery.open(address)
    client.close()


def test_a_cluster_is_asked_for_strong_consistency(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a sample that was acknowledged is found some seconds later; milvus-lite has no such delay to notice."""
    asked, create = [], pymilvus.MilvusClient.create_collection

    def observed(*arguments: Any, **options: Any) -> None:
        asked.append(options["consistency_level"])
        create(*arguments, **options)

    monkeypatch.setattr(pymilvus.MilvusClient, "create_collection", observed)
    Gallery.create(address, CONTRACT).close()
    assert asked == ["Strong"]


@pytest.mark.parametrize("drawn_ids", [[7, 2**53 - 1, 8, 7], [7, 2**53 - 1, 8, 8]])
def test_an_id_is_never_given_twice(address: str, drawn_ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(drawn_ids)
    monkeypatch.setattr(secrets, "randbits", lambda _: next(ids))
    with Gallery.create(f"{address}{drawn_ids[-1]}", CONTRACT) as gallery:
        outcomes = gallery.enroll("Ann", drawn(0, 2), strict=False)
        assert [outcome.sample_id for outcome in outcomes] == [7, 2**53 - 1]
        with pytest.raises(FacegmError, match="try again"):
            gallery.enroll("Bob", drawn(1, 2), strict=False)
        assert gallery.people == {"Ann": 2}


def test_samples_of_one_call_are_judged_against_each_other_and_sent_together(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = drawn(0)[0], drawn(1)[0]
    near_bob = at_distance(0.1, bob, ann)
    named = [("Ann", ann), ("Bob", bob), ("Ann", ann), ("Ann", near_bob), ("Bob", near_bob)]
    samples = [NewSample(name=name, embedding=vector) for name, vector in named]
    with Gallery.create(address, CONTRACT) as gallery:
        with monkeypatch.context() as broken:
            broken.setattr(pymilvus.MilvusClient, "insert", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                gallery.enroll_all(samples)
        assert gallery.people == {}
        outcomes = gallery.enroll_all(samples)
        assert [outcome.reason for outcome in outcomes] == [
            None,
            None,
            Reason.ALREADY_ENROLLED,
            Reason.NEARER_TO_ANOTHER,
            None,
        ]
        assert outcomes[2].sample_id == outcomes[0].sample_id
        assert gallery.people == {"Ann": 1, "Bob": 2}


def test_an_index_is_chosen_for_files_alone(address: str) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        Gallery.create(address, CONTRACT, index="faiss-flat")


def test_an_address_that_leads_nowhere_is_named() -> None:
    with pytest.raises(FacegmError, match=r"^milvus.http://localhost:1/people: "):
        Gallery.open("milvus+http://localhost:1/people")


@pytest.mark.parametrize(
    "address",
    [
        "milvus+http://faces.internal:19530",
        "milvus+http://faces.internal:19530/",
        "milvus+http:///people",
        "milvus+http://:19530/people",
        "milvus+http://faces.internal:port/people",
        "milvus+ftp://faces.internal:19530/people",
        "milvus+http://faces.internal:19530/people?x",
        "milvus+nowhere/people",
        "milvus+people",
        "milvus+",
    ],
)
def test_an_address_that_is_none_never_reaches_a_server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine would be taken for the server, and be given the token."""
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(UsageError, match=r"expected milvus\+http://HOST:PORT/COLLECTION"):
        Gallery.open(address)


def test_without_pymilvus_the_extra_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(FacegmError, match=r'pip install "facegm\[milvus\]"'):
        Gallery.open(address)
