"""`facegm verify`: the same figures from faces, from ready embeddings, by several processes; nothing embedded twice."""

import json
import logging
import pickle
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from face_runs import small_config
from plain_embeddings import embed_faces
from stores import NamedFaces

from facegm.align.face import TEMPLATE
from facegm.cli import main
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.model_file import load_embedder, save_embedder
from facegm.eval import embedding
from facegm.eval.sets.pairs import Pairs
from facegm.faces.run import train_run
from facegm.models.face_network import FaceModelConfig, build_face_network

PEOPLE, PHOTOS, FOLDS = 6, 8, 3
IMAGES = [f"person_{person}/person_{person}_{photo + 1:04d}" for person in range(PEOPLE) for photo in range(PHOTOS)]
Row = tuple[str, str, int, int]
Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]


def rows_of(first: int) -> list[Row]:
    """Pairs of one person, and of two, in three folds; other ones by other photos to begin with."""
    rows = []
    for number in range(36):
        person, photo = number % PEOPLE, (first + number // PEOPLE) % PHOTOS
        other = (person + 1 + number % 3) % PEOPLE if number % 2 else person
        rows.append(
            (
                IMAGES[person * PHOTOS + photo],
                IMAGES[other * PHOTOS + (photo + 1) % PHOTOS],
                int(other == person),
                number // 2 % FOLDS,
            )
        )
    return rows


ROWS, OTHER_ROWS = rows_of(0), rows_of(4)


def write_pairs(file: Path, rows: Sequence[Row], suffix: str = ".jpg") -> Path:
    lines = [f"{a}{suffix},{b}{suffix},{same},{fold}" for a, b, same, fold in rows]
    file.write_text("\n".join(["path_a,path_b,same,fold", *lines]) + "\n")
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "embedder.safetensors", seed=0)


def write_model(path: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    config, preprocessing = FaceModelConfig(width=0.1, embedding_dim=16), Preprocessing(face_size=64, crop_size=48)
    network = build_face_network(config, 48)
    save_embedder(path, network, config, preprocessing, {"size": 128, "template": TEMPLATE.tolist()})
    return path


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many faces each call has embedded."""
    counts: list[int] = []
    embed = FaceEmbedder.embed_aligned

    def counted(self: FaceEmbedder, faces: Sequence[np.ndarray], *, progress: bool = False) -> np.ndarray:
        counts.append(len(faces))
        return embed(self, faces, progress=progress)

    monkeypatch.setattr(FaceEmbedder, "embed_aligned", counted)
    return counts


def report_of(folder: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report


def distances(folder: Path, variant: str = "no PCA") -> np.ndarray:
    report = json.loads((folder / "report.json").read_text())
    (found,) = (one["distances"] for one in report["variants"] if one["variant"]["name"] == variant)
    return np.array(found)


def plain_distances(model: Path, store: Path, rows: Sequence[Row]) -> np.ndarray:
    """By the network itself, in float64."""
    network, preprocessing, _ = load_embedder(model)
    faces = NamedFaces(store)
    of = {
        image: embed_faces(network.double(), preprocessing, faces.face(f"{image}.jpg")[None])[0]
        for image in {name for a, b, _, _ in rows for name in (a, b)}
    }
    unit = {image: vector / np.linalg.norm(vector) for image, vector in of.items()}
    return np.array([np.linalg.norm(unit[a] - unit[b]) for a, b, _, _ in rows])


def verify(*arguments: str | Path) -> int:
    return main(["verify", *map(str, arguments)])


def test_distances_are_the_networks_and_other_pairs_are_not_embedded_again(
    model: Path, small_store: Path, tmp_path: Path, embedded: list[int]
) -> None:
    """The cache knows a face by its content, whatever the pairs call it."""
    output, pairs = tmp_path / "report", write_pairs(tmp_path / "a.csv", ROWS)
    assert verify(model, "--photos", small_store, "--pairs", pairs, "--output", output) == 0
    np.testing.assert_allclose(distances(output), plain_distances(model, small_store, ROWS), atol=1e-5)
    count = len({name for a, b, _, _ in ROWS for name in (a, b)})
    assert sum(embedded) == count
    first = distances(output)

    embedded.clear()
    other = write_pairs(tmp_path / "b.csv", ROWS[::-1], suffix=".png")
    assert verify(model, "--photos", small_store, "--pairs", other, "--output", output) == 0
    assert embedded == []
    np.testing.assert_array_equal(distances(output), first[::-1])

    further = {name for a, b, _, _ in OTHER_ROWS for name in (a, b)} - {name for a, b, _, _ in ROWS for name in (a, b)}
    third = write_pairs(tmp_path / "c.csv", OTHER_ROWS)
    assert verify(model, "--photos", small_store, "--pairs", third, "--output", output) == 0
    assert sum(embedded) == len(further)
    np.testing.assert_allclose(distances(output), plain_distances(model, small_store, OTHER_ROWS), atol=1e-5)

    another = write_model(tmp_path / "another.safetensors", seed=1)
    assert verify(another, "--photos", small_store, "--pairs", pairs, "--output", output) == 0
    np.testing.assert_allclose(distances(output), plain_distances(another, small_store, ROWS), atol=1e-5)


def test_an_interruption_goes_on_and_damage_is_noticed(
    model: Path,
    small_store: Path,
    tmp_path: Path,
    embedded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedding, "CHUNK", 10)
    output, pairs = tmp_path / "report", write_pairs(tmp_path / "a.csv", ROWS)
    command = (model, "--photos", small_store, "--pairs", pairs, "--output", output)
    embed = FaceEmbedder.embed_aligned

    def interrupted(self: FaceEmbedder, faces: Sequence[np.ndarray], *, progress: bool = False) -> np.ndarray:
        if len(embedded) == 2:
            raise KeyboardInterrupt
        return embed(self, faces, progress=progress)

    with monkeypatch.context() as patch:
        patch.setattr(FaceEmbedder, "embed_aligned", interrupted)
        assert verify(*command) == 130
    count = len({name for a, b, _, _ in ROWS for name in (a, b)})
    assert verify(*command) == 0
    assert sum(embedded) == count
    whole = distances(output)

    file = min((output / "embeddings").rglob("*.npy"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    embedded.clear()
    with caplog.at_level(logging.WARNING):
        assert verify(*command) == 0
    assert f"{file}: damaged" in caplog.text
    assert 0 < sum(embedded) <= 10
    np.testing.assert_array_equal(distances(output), whole)


def test_two_processes_equal_one(model: Path, small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    """Each embeds its half, and the first writes the report."""
    pairs = write_pairs(tmp_path / "a.csv", ROWS)
    arguments = [str(model), "--photos", str(small_store), "--pairs", str(pairs), "--device", "cpu"]
    assert verify(*arguments, "--output", tmp_path / "one") == 0
    done = torchrun(2, ["-m", "facegm", "verify", *arguments, "--output", "two"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("report: ") == 1
    np.testing.assert_allclose(distances(tmp_path / "two"), distances(tmp_path / "one"), atol=1e-6)
    assert len([*(tmp_path / "two" / "embeddings").rglob("*.npy")]) == 2


def test_ready_embeddings_give_the_models_figures(model: Path, small_store: Path, tmp_path: Path) -> None:
    """Of anybody's model, under names of their own suffix and in any order."""
    pairs = write_pairs(tmp_path / "a.csv", ROWS)
    network, preprocessing, _ = load_embedder(model)
    faces = NamedFaces(small_store)
    names = IMAGES[::-1]
    found = embed_faces(network, preprocessing, np.stack([faces.face(f"{name}.jpg") for name in names]))
    np.savez(tmp_path / "ready.npz", paths=np.array([f"{name}.png" for name in names]), embeddings=found)
    assert verify(model, "--photos", small_store, "--pairs", pairs, "--output", tmp_path / "faces") == 0
    assert verify("--embeddings", tmp_path / "ready.npz", "--pairs", pairs) == 0
    ready = tmp_path / "verify" / "ready"
    for variant in ("no PCA", "PCA 64"):
        np.testing.assert_allclose(distances(ready, variant), distances(tmp_path / "faces", variant), atol=1e-5)


def test_a_packed_set_is_verified_with_its_own_pairs(model: Path, small_store: Path, tmp_path: Path) -> None:
    faces, images = NamedFaces(small_store), []
    for a, b, _, _ in ROWS:
        for name in (a, b):
            crop = cv2.resize(faces.face(f"{name}.jpg"), (112, 112), interpolation=cv2.INTER_AREA)
            images.append(cv2.imencode(".png", crop[:, :, ::-1])[1].tobytes())
    rows = sorted(range(len(ROWS)), key=lambda row: row % 18)  # both kinds in each of the ten blocks
    order = [image for row in rows for image in images[2 * row : 2 * row + 2]]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((order, [bool(ROWS[row][2]) for row in rows])))
    assert verify(model, "--bin", tmp_path / "set.bin") == 0
    report = json.loads((tmp_path / "verify" / "set" / "report.json").read_text())
    assert report["pairs"]["count"] == len(ROWS)
    assert report["pairs"]["folds"] == 10


def test_missing_images_are_refused_or_left_out_and_counted(
    model: Path,
    small_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing: list[Row] = [(IMAGES[0], "person_0/x", 1, 0), ("person_9/person_9_0001", IMAGES[1], 0, 1)]
    pairs = write_pairs(tmp_path / "a.csv", [*ROWS, *missing])
    command = (model, "--photos", small_store, "--pairs", pairs, "--output", tmp_path / "report")
    assert verify(*command) == 1
    assert "2 of the" in (said := capsys.readouterr().err)
    assert "person_0/x.jpg: empty" in said
    assert verify(*command, "--allow-missing") == 0
    assert "2 of 38 pairs dropped (1 matched + 1 mismatched" in capsys.readouterr().out
    np.testing.assert_allclose(distances(tmp_path / "report"), plain_distances(model, small_store, ROWS), atol=1e-5)
    monkeypatch.setattr(Pairs, "is_lfw", True)
    assert verify(*command, "--allow-missing") == 2
    assert "all of which its protocol scores" in capsys.readouterr().err


def test_templates_are_verified_by_the_sums_of_their_images(model: Path, small_store: Path, tmp_path: Path) -> None:
    """Two photos a template, each a medium of its own: the sum of both, of unit length."""
    templates = {
        f"t{person}-{half}": [person * PHOTOS + 2 * half + k for k in (0, 1)]
        for person in range(6)
        for half in range(4)
    }
    lines = [f"{IMAGES[image]}.jpg {name} {image}" for name, images in templates.items() for image in images]
    (tmp_path / "media.txt").write_text("\n".join(lines) + "\n")
    rows = [(f"t{p}-{h}", f"t{p}-{(h + 1) % 4}", 1) for p in range(6) for h in range(4)]
    rows += [(f"t{p}-{h}", f"t{(p + 1) % 6}-{h}", 0) for p in range(6) for h in range(4)]
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in rows))
    output = tmp_path / "report"
    given = ("--photos", small_store, "--pairs", tmp_path / "pairs.txt", "--templates", tmp_path / "media.txt")
    assert verify(model, *given, "--output", output) == 0
    network, preprocessing, _ = load_embedder(model)
    faces = NamedFaces(small_store)
    images = embed_faces(network.double(), preprocessing, np.stack([faces.face(f"{name}.jpg") for name in IMAGES]))
    of = {name: images[numbers].sum(axis=0) for name, numbers in templates.items()}
    unit = {name: vector / np.linalg.norm(vector) for name, vector in of.items()}
    expected = [np.linalg.norm(unit[a] - unit[b]) for a, b, _ in rows]
    np.testing.assert_allclose(distances(output), expected, atol=1e-5)


def test_a_run_that_is_not_at_its_end_is_verified_by_its_newest_checkpoint(
    small_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its averaged weights, as the run itself exports them; the last checkpoint of a finished run is its end."""
    run, pairs = tmp_path / "run", write_pairs(tmp_path / "a.csv", ROWS)
    train_run(small_config(small_store, epochs=2.0, checkpoint_every=2, ema_decay=0.5), run)
    command = (run, "--photos", small_store, "--pairs", pairs)
    assert verify(*command, "--output", tmp_path / "whole") == 0
    (run / "embedder.safetensors").unlink()
    with caplog.at_level(logging.INFO):
        assert verify(*command, "--output", tmp_path / "half") == 0
    assert "newest checkpoint was taken, as embedder-step-00000004.safetensors" in caplog.text
    assert "embedder-step-00000004" in str(report_of(tmp_path / "half")["note"])
    np.testing.assert_allclose(distances(tmp_path / "half"), distances(tmp_path / "whole"), atol=1e-6)


def test_one_fold_is_refused_before_anything_is_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the file's name: photos of a set take minutes to align."""
    pairs = write_pairs(tmp_path / "a.csv", [(a, b, same, 0) for a, b, same, _ in ROWS])
    (tmp_path / "photos").mkdir()
    assert verify(model, "--photos", tmp_path / "photos", "--pairs", pairs, "--output", tmp_path / "report") == 1
    assert f"{pairs} has one fold" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_refused(
    model: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_pairs(tmp_path / "a.csv", ROWS)
    command = (model, "--photos", small_store, "--pairs", pairs, "--output", tmp_path / "report")
    assert verify(*command, "--device", "cuda") == 1
    assert "device cuda: no GPU that torch sees" in capsys.readouterr().err
