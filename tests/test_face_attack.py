"""`facegm attack` of a face network's run, from the checkpoint to the page, on a tiny store; and what it refuses."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import exported, small_config, write_pairs
from pages import Page
from PIL import Image
from stores import NamedFaces

from facegm.adversarial import face_attack, face_attack_report, face_crafting
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.face_attack_charts import cumulative
from facegm.adversarial.face_crafting import FACE_ATTACKS
from facegm.adversarial.face_detection import fit_detectors, observe_training_faces
from facegm.adversarial.face_inputs import DRAWN, inputs_in_files, strange_inputs
from facegm.adversarial.face_objectives import GOALS
from facegm.adversarial.face_pairs import FacePairs
from facegm.adversarial.face_subject import FaceSubject, load_face_subject
from facegm.adversarial.observations import Observations
from facegm.adversarial.verifier import Verifier
from facegm.cli import attack_faces
from facegm.data.weights import read_weights
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA
from facegm.eval.sets.pairs import Pairs, read_pairs
from facegm.faces.run import open_training_faces, train_run
from facegm.faces.task import FaceTask
from facegm.losses.config import LossConfig
from facegm.training.checkpoint import load_newest_checkpoint

IMAGES = 6
QUICK: Mapping[str, Any] = {"cw": {"iterations": 10, "search_steps": 2}, "ddn": {"iterations": 40}}


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it tells most people apart, with its pairs."""
    folder = tmp_path_factory.mktemp("faces")
    train_run(small_config(small_store, epochs=10.0), folder / "run")
    write_pairs(folder / "pairs.txt")
    return folder / "run"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Fewer iterations."""
    recipes = {name: replace(one, **QUICK.get(name, {"iterations": 4})) for name, one in FACE_ATTACKS.items()}
    with pytest.MonkeyPatch.context() as patch:
        for module in (face_crafting, face_attack, face_attack_report):
            patch.setattr(module, "FACE_ATTACKS", recipes | {"fgsm": FACE_ATTACKS["fgsm"]})
        yield


@pytest.fixture(scope="module")
def attacked(run: Path, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command's results."""
    output = tmp_path_factory.mktemp("attacked")
    attack(run, small_store, output)
    return output


def attack(run: Path, store: Path, output: Path, *more: str) -> None:
    options = ["--lfw", str(store), "--pairs", str(run.parent / "pairs.txt"), "--images", str(IMAGES)]
    attack_faces.run([str(run), *options, "--output", str(output), *more])


def written(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The numbers, and the rows of the table."""
    with (folder / "attack.csv").open(newline="") as table:
        return json.loads((folder / "attack.json").read_text("utf-8")), list(csv.DictReader(table))


def crafted(folder: Path, goal: str, name: str) -> np.ndarray:
    """Attacked photos before they are rounded, 0 to 255, channels last."""
    images = read_weights(folder / "crafted" / goal / name / "0.safetensors").tensors["images"]
    return 255 * images.permute(0, 2, 3, 1).double().numpy()


def means_of(run: Path) -> np.ndarray:
    state = load_newest_checkpoint(run)
    assert state is not None
    return np.asarray(state["task"]["loss.means"].double().numpy())


def test_successes_are_those_of_the_written_photos(run: Path, small_store: Path, attacked: Path) -> None:
    """By the embedder of applications and the protocol's own thresholds, photo by photo."""
    found, rows = written(attacked)
    pairs, store, embedder = read_pairs(run.parent / "pairs.txt"), NamedFaces(small_store), FaceEmbedder.load(run)
    of = {name: embedder.embed_aligned([store.face(name)])[0] for name in pairs.images}
    left, right = (np.stack([of[name] for name in names]) for names in (pairs.names_a, pairs.names_b))
    protocol = verify(left, right, pairs.same, pairs.fold, variant=NO_PCA)
    assert found["accuracy"] == protocol.accuracy
    assert found["thresholds"] == pytest.approx(protocol.fold_threshold.tolist(), abs=1e-6)

    assert len(rows) == sum(one["pairs"] for one in found["attacks"]) == len(FACE_ATTACKS) * IMAGES
    for one in found["attacks"]:
        mine = [row for row in rows if (row["goal"], row["attack"]) == (one["goal"], one["attack"])]
        clean, photos = (
            np.stack([store.face(row["photo"]) for row in mine]),
            crafted(attacked, one["goal"], one["attack"]),
        )
        changes = np.sqrt(((photos - clean) ** 2).mean(axis=(1, 2, 3)))
        assert [float(row["distortion"]) for row in mine] == pytest.approx(changes.tolist(), abs=1e-3)
        if one["attack"].startswith("pgd-"):
            assert np.abs(photos - clean).max() < int(one["attack"][4:]) + 1e-3
        for row, photo in zip(mine, np.rint(photos).astype(np.uint8), strict=True):
            e, other = embedder.embed_aligned([photo])[0].astype(np.float64), of[row["other"]].astype(np.float64)
            distance = np.linalg.norm(e / np.linalg.norm(e) - other / np.linalg.norm(other))
            number = list(zip(pairs.names_a, pairs.names_b, strict=True)).index((row["photo"], row["other"]))
            threshold, is_same = protocol.fold_threshold[pairs.fold[number]], bool(pairs.same[number])
            assert is_same == (one["goal"] == "dodging")
            assert (protocol.distances[number] < threshold) == is_same, "judged right before"
            if abs(distance / threshold - 1) > 1e-5:
                assert bool(int(row["success_quantised"])) == ((distance < threshold) != is_same)
        assert one["success"] == np.mean([int(row["success"]) for row in mine])
    for goal in GOALS:
        assert max(one["success"] for one in found["attacks"] if one["goal"] == goal) > 0


def test_what_is_done_is_not_done_again(
    run: Path, small_store: Path, attacked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(face_crafting, "carry_out", refuse)
    before = {name: (attacked / name).read_bytes() for name in ("attack.json", "attack.csv", "attack.html")}
    attack(run, small_store, attacked)
    assert {name: (attacked / name).read_bytes() for name in before} == before
    page = Page.of((attacked / "attack.html").read_text("utf-8"))
    assert page.text.count("No robustness claimed") == 1
    assert "No robustness claimed" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="done before"):  # another threshold, other attacks
        attack(run, small_store, attacked, "--false-accept-rate=0.2")


def test_detectors_score_as_a_plain_computation_does(run: Path, small_store: Path, attacked: Path) -> None:
    """In float64, photo by photo: the nearest mean, and the kernels of its identity's training faces."""
    found, rows = written(attacked)
    means, store, embedder = means_of(run), NamedFaces(small_store), FaceEmbedder.load(run)
    faces = open_training_faces(small_config(small_store))
    known = embedder.embed_aligned([store.face(key) for key in faces.keys]).astype(np.float64) / 2
    training = Observations(
        features=torch.from_numpy(known), logits=torch.zeros(48, 6), labels=torch.from_numpy(faces.labels)
    )
    bandwidth = KDensity().fit(training).bandwidth_.item()  # which tests of its own look at

    def scores(photo: np.ndarray) -> tuple[float, float]:
        z = embedder.embed_aligned([photo])[0].astype(np.float64) / 2
        squared = ((means - z) ** 2).sum(axis=1)
        kernels = [
            -((z - center) ** 2).sum() / (2 * bandwidth**2) for center in known[faces.labels == squared.argmin()]
        ]
        return float(np.logaddexp.reduce(kernels) - np.log(len(kernels))), float(-squared.min() / 2)

    for goal in GOALS:
        mine = [row for row in rows if (row["goal"], row["attack"]) == (goal, "fgsm")]
        clean = np.array([scores(store.face(row["photo"])) for row in mine])
        after = np.array([scores(photo) for photo in np.rint(crafted(attacked, goal, "fgsm")).astype(np.uint8)])
        numbers = next(one for one in found["attacks"] if (one["goal"], one["attack"]) == (goal, "fgsm"))
        for column, name in enumerate(("K-density", "GM likelihood")):
            scored = np.array([float(row[name]) for row in mine])
            assert scored == pytest.approx(after[:, column], rel=0.02)  # before they are rounded to 8 bits
            wins = np.sign(clean[:, None, column] - scored)
            assert numbers["detectors"][name]["area"] == pytest.approx((wins.mean() + 1) / 2)
    assert tuple(one["name"] for one in found["strange_inputs"]) == DRAWN


def test_the_average_of_weights_and_means_is_attacked_where_it_is_exported(small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store, epochs=3.0, ema_decay=0.5)
    train_run(config, tmp_path)
    face = load_face_subject(tmp_path, config, open_training_faces(config), 128, torch.device("cpu"))
    expected, found = exported(tmp_path), face.module.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    state = load_newest_checkpoint(tmp_path)
    assert state is not None
    assert torch.equal(face.task.state_dict()["loss.means"], state["average"]["task"]["loss.means"])
    assert not torch.equal(state["task"]["loss.means"], state["average"]["task"]["loss.means"])
    assert not any(part.training for part in face.module.modules())


def test_a_network_that_cannot_be_attacked_in_earnest_is_refused(
    run: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode, or with an operation whose gradient is 0: the attacks' figures would say nothing."""

    def training(*loaded: Any) -> FaceSubject:
        face = load_face_subject(*loaded)
        face.task.network.train()
        return face

    def rounding(*loaded: Any) -> FaceSubject:
        face = load_face_subject(*loaded)
        features = face.subject.features
        coarse = replace(face.subject, features=lambda faces: features(torch.round(faces * 32) / 32))
        return face._replace(subject=coarse)

    for load, trouble in ((training, "in training mode"), (rounding, "the gradient of the outputs is 0")):
        monkeypatch.setattr(face_attack, "load_face_subject", load)
        with pytest.raises(FacegmError, match=trouble):
            attack(run, small_store, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_of_another_loss_there_is_no_likelihood(run: Path, small_store: Path) -> None:
    config = small_config(small_store)
    faces = open_training_faces(config)
    face = load_face_subject(run, config, faces, 128, torch.device("cpu"))
    training = observe_training_faces(face, faces)
    assert np.mean(training.predicted.numpy() == faces.labels) > 0.9
    assert list(fit_detectors(face, training)) == ["K-density", "GM likelihood"]
    softmax = FaceTask(config.model, LossConfig(name="softmax"), config.preprocessing, 6)
    assert list(fit_detectors(face._replace(task=softmax), training)) == ["K-density"]


def test_a_run_that_cannot_be_attacked_is_refused(run: Path, small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store)
    faces = open_training_faces(config)
    with pytest.raises(FacegmError, match="no checkpoint, in which the means of the identities are"):
        load_face_subject(tmp_path, config, faces, 128, torch.device("cpu"))
    fewer = replace(config, data=replace(config.data, exclude_identities=["person_0"]))
    with pytest.raises(FacegmError, match=r"trained on 48 faces of 6 identities .* now holds 40 faces of 5"):
        load_face_subject(run, fewer, open_training_faces(fewer), 128, torch.device("cpu"))
    wider = replace(config, model=replace(config.model, embedding_dim=8))
    with pytest.raises(FacegmError, match="of another network than its configuration"):
        load_face_subject(run, wider, faces, 128, torch.device("cpu"))
    for options in (["--images=1"], ["--false-accept-rate=1"], ["--false-accept-rate=x"]):
        with pytest.raises(SystemExit) as stop:
            attack_faces.run([str(run), "--lfw", str(small_store), *options])
        assert stop.value.code == 2


def test_a_network_that_judges_no_pair_right_has_none_to_attack(small_store: Path) -> None:
    pairs = Pairs(("a", "c"), ("b", "d"), np.array([True, True]), np.array([0, 1]))
    verifier = Verifier(variant=NO_PCA, thresholds=torch.tensor([0.5, 0.5]).double())
    result: Any = SimpleNamespace(distances=np.array([0.9, 0.8]))
    judged = FacePairs(pairs=pairs, faces={}, embeddings=np.zeros((4, 2)), verifier=verifier, result=result)
    with pytest.raises(FacegmError, match="no pair of one person is judged right"):
        judged.attacked("dodging", 2)


def test_strange_inputs_are_what_they_are_called() -> None:
    faces = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    found = strange_inputs(faces)
    assert all(one.shape == faces.shape and one.dtype == np.uint8 for one in found.values())
    assert (found["blank"] == found["blank"][:, :1, :1]).all()
    assert len(np.unique(found["blank"][:, 0, 0], axis=0)) == 5
    assert np.array_equal(found["upside-down"][2, 0, 0], faces[2, 63, 63])
    assert np.unique(found["noise"]).size == 256
    shrunk = found["close-ups"][0, 2::4, 2::4].astype(int)  # a part of 16x16, enlarged four times
    windows = np.lib.stride_tricks.sliding_window_view(faces[0].astype(int), (16, 16), axis=(0, 1))
    distance = np.abs(windows - shrunk.transpose(2, 0, 1)).mean(axis=(2, 3, 4))
    assert distance.min() < 0.5 * np.median(distance), "is near one of the parts, as no other"
    again = strange_inputs(faces)
    assert all(np.array_equal(found[name], again[name]) for name in DRAWN)


def test_inputs_in_files_are_brought_to_the_side_of_faces(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for number in range(5):
        Image.new("L", (40 + number, 30), 50 * number).save(tmp_path / f"cats/{number}.png")
    found = inputs_in_files([tmp_path / "cats"], 16, 3)
    assert list(found) == ["cats"]
    assert found["cats"].shape == (3, 16, 16, 3)
    assert found["cats"][:, 0, 0].tolist() == [[0] * 3, [50] * 3, [150] * 3], "evenly spaced over all"


def test_the_chart_counts_those_that_needed_no_more() -> None:
    sizes, shares = cumulative(np.array([3.0, 1.0]), 4)
    assert sizes.tolist() == [0, 1, 3]
    assert shares.tolist() == [0, 0.25, 0.5]
