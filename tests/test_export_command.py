"""`facegm export`: from runs, checkpoints and other programs' models to files that other commands take, with a card."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from face_runs import small_config, write_pairs
from onnx_models import write_outside_model
from stores import NamedFaces

from facegm import FaceEmbedder
from facegm.cli import main
from facegm.embedding import export
from facegm.embedding.onnx_file import OnnxFile
from facegm.faces.run import train_run
from facegm.store.reader import FaceStore
from facegm.training.checkpoint import checkpoints


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are checked on few faces."""
    monkeypatch.setattr(export, "CHECKED", 40)


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one, with two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train_run(small_config(small_store), folder)
    return folder


def exported(*arguments: str | Path) -> None:
    assert main(["export", *map(str, arguments)]) == 0


def embeddings(model: Path, small_store: Path) -> np.ndarray:
    store = FaceStore(small_store)
    return FaceEmbedder.load(model, device="cpu").embed_aligned([store.read_face(row) for row in range(6)])


def test_a_run_is_exported_with_a_card(run: Path, small_store: Path, tmp_path: Path) -> None:
    exported(run, "--output", tmp_path / "new" / "model.onnx", "--license", "for research")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.md", "model.onnx"]
    assert np.allclose(
        embeddings(tmp_path / "new" / "model.onnx", small_store), embeddings(run, small_store), atol=1e-4
    )
    card = (tmp_path / "new" / "model.md").read_text()
    assert "| licence | for research |" in card
    assert re.search(r"\| loss \| gm, .*alpha 0.01", card)
    assert "batch_size 24" in card
    assert f"| data | `{small_store.name}` |" in card
    assert "How well it verifies is not known" in card
    assert "It has not been calibrated" in card


def test_a_checkpoint_is_exported_as_it_was(run: Path, small_store: Path, tmp_path: Path) -> None:
    """The older of two, whose embeddings are not the finished run's."""
    first = checkpoints(run)[0]
    exported(first, "--output", tmp_path / "first.onnx")
    found, last = embeddings(tmp_path / "first.onnx", small_store), embeddings(run, small_store)
    assert np.abs(found - last).max() > 1e-3
    assert np.allclose(found, embeddings(run / f"embedder-{first.stem}.safetensors", small_store), atol=1e-4)


def test_a_checkpoint_is_named_from_within_its_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoints(run)[0]
    made = run / f"embedder-{first.stem}.safetensors"
    made.unlink(missing_ok=True)
    monkeypatch.chdir(first.parent)
    exported(first.name, "--output", tmp_path / "first.onnx")
    assert made.is_file()
    assert sorted(path.suffix for path in first.parent.iterdir()) == [".pt"] * len(checkpoints(run))


def test_licence_and_card_of_a_written_file_are_renewed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, renewed = tmp_path / "written.onnx", tmp_path / "renewed.onnx"
    exported(run, "--output", written, "--license", "for research")
    exported(written, "--output", renewed, "--license", "MIT")
    before, after = OnnxFile.read(written), OnnxFile.read(renewed)
    assert after.description == (before.description or {}) | {"license": "MIT"}
    assert after.digest == before.digest
    assert "| licence | MIT |" in renewed.with_suffix(".md").read_text()
    exported(renewed, "--output", renewed)
    assert "| licence | MIT |" in renewed.with_suffix(".md").read_text()
    capsys.readouterr()
    assert main(["export", str(written), "--output", str(renewed), "--preprocessing", "insightface"]) == 1
    assert "says itself how faces are prepared for it; leave the preprocessing out" in capsys.readouterr().err


def test_a_run_that_has_not_ended_gives_its_newest_checkpoint(run: Path, small_store: Path, tmp_path: Path) -> None:
    (run / "embedder.safetensors").rename(tmp_path / "last.safetensors")
    try:
        exported(run, "--output", tmp_path / "model.onnx")
    finally:
        (tmp_path / "last.safetensors").rename(run / "embedder.safetensors")
    assert np.allclose(embeddings(tmp_path / "model.onnx", small_store), embeddings(run, small_store), atol=1e-4)


def test_a_lone_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step-00000001.pt").touch()
    assert main(["export", str(tmp_path / "step-00000001.pt"), "--output", str(tmp_path / "model.onnx")]) == 1
    assert "step-00000001.pt: no checkpoint in the run folder of a face network" in capsys.readouterr().err


def test_json_is_all_that_is_printed(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    exported(run / "embedder.safetensors", "--output", tmp_path / "model.onnx", "--json")
    written = json.loads(capfd.readouterr().out)
    assert written["file"] == str(tmp_path / "model.onnx")
    assert written["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert written["checked"]["faces"] == 40
    assert 0 <= abs(written["checked"]["cosine_distance"]) < 1e-6
    assert written["contract"] == FaceEmbedder.load(run).contract.to_json()


def test_what_was_measured_on_these_weights_stands_in_the_card(
    run: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on to the exported file; a report on other weights says nothing of these."""
    pairs = write_pairs(tmp_path / "pairs.txt")
    assert main(["verify-lfw", str(run), "--lfw", str(small_store), "--pairs", str(pairs), "--calibrate"]) == 0
    exported(run, "--output", tmp_path / "model.onnx")
    card, report = (tmp_path / "model.md").read_text(), json.loads((run / "lfw" / "report.json").read_text())
    accuracies = {variant["variant"]["name"]: variant["accuracy"] for variant in report["variants"]}
    assert f"## Verification on {small_store.name}" in card
    assert "24 pairs in 2 folds, 12 of one person" in card
    for name, accuracy in accuracies.items():
        assert f"| {name} | {100 * accuracy:.2f} ± " in card
    calibration = FaceEmbedder.load(tmp_path / "model.onnx").calibration
    assert calibration is not None
    assert calibration == FaceEmbedder.load(run).calibration
    for found in calibration.thresholds:
        assert f"| {found.false_match_rate:g} | {found.threshold:.4f} |" in card
    assert f"Measured on {small_store.name}, pairs.txt: 12 pairs of one person, 12 of different people" in card
    assert "6 identities" in card
    exported(checkpoints(run)[0], "--output", tmp_path / "first.onnx")
    assert "How well it verifies is not known" in (tmp_path / "first.md").read_text()


def test_every_command_takes_another_programs_model(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Described once, verified with the calibration written into it, identified."""
    outside, described = tmp_path / "outside.onnx", tmp_path / "described.onnx"
    write_outside_model(outside)
    pairs, output = write_pairs(tmp_path / "pairs.txt"), tmp_path / "report"
    verify = ["--photos", str(small_store), "--pairs", str(pairs), "--output", str(output), "--calibrate"]
    assert main(["verify", str(outside), *verify]) == 1
    assert "write that into it by `facegm export" in capsys.readouterr().err
    exported(outside, "--preprocessing", "insightface", "--output", described)
    assert "| licence | not stated; ask whoever made the model |" in (tmp_path / "described.md").read_text()
    assert main(["verify", str(described), *verify]) == 0
    embedder = FaceEmbedder.load(described, device="cpu")
    assert embedder.calibration is not None
    report = json.loads((output / "report.json").read_text())
    assert report["run"]["model_digest"] == embedder.contract.weights
    assert report["facts"]["embedding"] == embedder.describe()
    store = NamedFaces(small_store)
    a, b = embedder.embed_aligned([store.face(f"person_0/person_0_{number:04d}.jpg") for number in (1, 5)])
    distance = np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))
    plain = next(variant for variant in report["variants"] if variant["variant"]["name"] == "no PCA")
    assert plain["distances"][0] == pytest.approx(distance, abs=1e-5)
    assert main(["identify", str(described), "--photos", str(small_store), "--output", str(tmp_path / "identify")]) == 0
    assert (tmp_path / "identify").is_dir()
