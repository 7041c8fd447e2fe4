"""`facegm attack` of a face network's run, from the checkpoint to the page, on a tiny store; and what it refuses."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import small_config
from pages import Page
from stores import NamedFaces

from facegm.adversarial import face_attack, face_attack_report, face_crafting
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.face_crafting import FACE_ATTACKS
from facegm.adversarial.face_inputs import DRAWN, inputs_in_files, strange_inputs
from facegm.adversarial.face_objectives import GOALS
from facegm.adversarial.observations import Observations
from facegm.cli import attack_faces
from facegm.data.weights import read_weights
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import NO_PCA, verify
from facegm.faces.run import open_training_faces, train_run
from facegm.training.checkpoint import load_newest_checkpoint

IMAGES = 6
QUICK = {"cw": {"iterations": 15, "search_steps": 2}, "ddn": {"iterations": 15}}


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it tells most people apart, with its pairs."""
    folder = tmp_path_factory.mktemp("faces")
    train_run(small_config(small_store, epochs=10.0), folder / "run")
    lines = ["2\t6"]
    for fold in range(2):
        lines += [f"person_{k}\t{1 + fold}\t{5 + fold}" for k in range(6)]
        lines += [f"person_{k}\t{3 + fold}\tperson_{(k + 1) % 6}\t{7 + fold}" for k in range(6)]
    (folder / "pairs.txt").write_text("".join(f"{line}\n" for line in lines))
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
        clean, photos = np.stack([store.face(row["photo"]) for row in mine]), crafted(attacked, one["goal"], one["attack"])
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

    for name in ("sign_attack", "carlini_wagner", "ddn"):
        monkeypatch.setattr(face_crafting, name, refuse)
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
    training = Observations(features=torch.from_numpy(known), logits=torch.zeros(48, 6), labels=torch.from_numpy(faces.labels))
    bandwidth = KDensity().fit(training).bandwidth_.item()  # which tests of its own look at

    def scores(photo: np.ndarray) -> tuple[float, float]:
        z = embedder.embed_aligned([photo])[0].astype(np.float64) / 2
        squared = ((means - z) ** 2).sum(axis=1)
        kernels = [-((z - center) ** 2).sum() / (2 * bandwidth**2) for center in known[faces.labels == squared.argmin()]]
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
