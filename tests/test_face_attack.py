"""`facegm attack` of a face network's run, from the checkpoint to the page, on a tiny store; and what it refuses."""

import csv
import json
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
from facegm.adversarial.face_crafting import FACE_ATTACKS
from facegm.adversarial.face_inputs import DRAWN, inputs_in_files, strange_inputs
from facegm.cli import attack_faces
from facegm.data.weights import read_weights
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.pairs import read_pairs
from facegm.eval.protocol import NO_PCA, verify
from facegm.faces.run import open_training_faces, train_run
from facegm.training.checkpoint import load_newest_checkpoint

IMAGES = 6
QUICK = {"cw": {"iterations": 12, "search_steps": 2}, "ddn": {"iterations": 12}}


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer iterations, and fewer attacks."""
    names = ("fgsm", *(f"pgd-{budget}" for budget in face_crafting.BUDGETS), "cw", "ddn")
    recipes = {name: replace(FACE_ATTACKS[name], **QUICK.get(name, {"iterations": 3})) for name in names}
    for module in (face_crafting, face_attack, face_attack_report):
        monkeypatch.setattr(module, "FACE_ATTACKS", recipes)


def attack(run: Path, store: Path, output: Path, *more: str) -> dict[str, Any]:
    options = ["--lfw", str(store), "--pairs", str(run.parent / "pairs.txt"), "--images", str(IMAGES)]
    attack_faces.run([str(run), *options, "--output", str(output), *more])
    found: dict[str, Any] = json.loads((output / "attack.json").read_text("utf-8"))
    return found


def means_of(run: Path) -> np.ndarray:
    state = load_newest_checkpoint(run)
    assert state is not None
    return np.asarray(state["task"]["loss.means"].double().numpy())


@pytest.mark.usefixtures("quick")
def test_from_the_run_to_the_page(
    run: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Successes and areas are those of a computation from the written photos; what is done is not done again."""
    found = attack(run, small_store, tmp_path)
    pairs, store, embedder = read_pairs(run.parent / "pairs.txt"), NamedFaces(small_store), FaceEmbedder.load(run)
    of = {name: embedder.embed_aligned([store.face(name)])[0] for name in pairs.images}
    left, right = (np.stack([of[name] for name in names]) for names in (pairs.names_a, pairs.names_b))
    protocol = verify(left, right, pairs.same, pairs.fold, variant=NO_PCA)
    assert found["accuracy"] == protocol.accuracy
    assert found["thresholds"] == protocol.fold_threshold.tolist()

    rows = list(csv.DictReader((tmp_path / "attack.csv").open()))
    assert len(rows) == sum(one["pairs"] for one in found["attacks"])
    for one in found["attacks"]:
        mine = [row for row in rows if (row["goal"], row["attack"]) == (one["goal"], one["attack"])]
        crafted = read_weights(tmp_path / "crafted" / one["goal"] / one["attack"] / "0.safetensors").tensors["images"]
        clean = np.stack([store.face(row["photo"]) for row in mine])
        change = 255 * crafted.permute(0, 2, 3, 1).double().numpy() - clean
        assert [float(row["distortion"]) for row in mine] == pytest.approx(
            np.sqrt((change**2).mean(axis=(1, 2, 3))).tolist(), abs=1e-3
        )
        if one["attack"].startswith("pgd-"):
            assert np.abs(change).max() < int(one["attack"][4:]) + 1e-3
        levels = np.rint(clean + change).astype(np.uint8)
        for row, photo in zip(mine, levels, strict=True):
            e, other = embedder.embed_aligned([photo])[0].astype(np.float64), of[row["other"]].astype(np.float64)
            distance = np.linalg.norm(e / np.linalg.norm(e) - other / np.linalg.norm(other))
            number = list(zip(pairs.names_a, pairs.names_b, strict=True)).index((row["photo"], row["other"]))
            is_same = row["photo"].split("/")[0] == row["other"].split("/")[0]
            threshold = protocol.fold_threshold[pairs.fold[number]]
            assert is_same == (one["goal"] == "dodging")
            assert (protocol.distances[number] < threshold) == is_same, "judged right before"
            if abs(distance / threshold - 1) > 1e-5:
                assert bool(int(row["success_quantised"])) == ((distance < threshold) != is_same)
        assert one["success"] == np.mean([int(row["success"]) for row in mine])

    assert max(one["success"] for one in found["attacks"] if one["goal"] == "impersonation") > 0
    assert set(found["success_over_budget"]["dodging"]) == {"1", "2", "4", "8", "16"}
    page = Page.of((tmp_path / "attack.html").read_text("utf-8"))
    assert page.text.count("No robustness claimed") == 1
    assert "No robustness claimed" in capsys.readouterr().out

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("done before")

    for name in ("sign_attack", "carlini_wagner", "ddn"):
        monkeypatch.setattr(face_crafting, name, refuse)
    before = {name: (tmp_path / name).read_bytes() for name in ("attack.json", "attack.csv", "attack.html")}
    attack(run, small_store, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("quick")
def test_detectors_score_as_a_plain_computation_does(run: Path, small_store: Path, tmp_path: Path) -> None:
    """In float64, photo by photo: the nearest mean, and the kernels of its identity's training faces."""
    found = attack(run, small_store, tmp_path, "--pca")
    means, store, embedder = means_of(run), NamedFaces(small_store), FaceEmbedder.load(run)
    faces = open_training_faces(small_config(small_store))
    known = [embedder.embed_aligned([store.face(key)])[0].astype(np.float64) / 2 for key in faces.keys]

    def scores(photo: np.ndarray) -> tuple[float, float]:
        z = embedder.embed_aligned([photo])[0].astype(np.float64) / 2
        squared = ((means - z) ** 2).sum(axis=1)
        own = [center for center, label in zip(known, faces.labels, strict=True) if label == squared.argmin()]
        log_kernels = [-((z - center) ** 2).sum() / (2 * BANDWIDTH**2) for center in own]
        return float(np.logaddexp.reduce(log_kernels) - np.log(len(own))), float(-squared.min() / 2)

    rows = list(csv.DictReader((tmp_path / "attack.csv").open()))
    for goal in ("impersonation", "dodging"):
        mine = [row for row in rows if (row["goal"], row["attack"]) == (goal, "fgsm")]
        clean = np.array([scores(store.face(row["photo"])) for row in mine])
        crafted = read_weights(tmp_path / "crafted" / goal / "fgsm" / "0.safetensors").tensors["images"]
        attacked = np.array([scores(one) for one in np.rint(255 * crafted.permute(0, 2, 3, 1).numpy()).astype(np.uint8)])
        numbers = next(one for one in found["attacks"] if (one["goal"], one["attack"]) == (goal, "fgsm"))
        for column, name in enumerate(("K-density", "GM likelihood")):
            written = np.array([float(row[name]) for row in mine])
            assert written == pytest.approx(attacked[:, column], rel=0.05)  # of photos that are not rounded to 8 bits
            wins = [np.sign(a - b) for a in clean[:, column] for b in attacked[:, column]]
            assert numbers["detectors"][name]["area"] == pytest.approx((np.mean(wins) + 1) / 2, abs=0.12)
    strange = {one["name"]: one["detectors"]["GM likelihood"] for one in found["strange_inputs"]}
    assert tuple(strange) == DRAWN
