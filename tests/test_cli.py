"""The command line: its verbs and options are a decision, wrong use speaks, and imports stay light."""

import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from facegm.cli import VERBS, main
from facegm.faces.config import FaceRunConfig

OPTIONS = {
    "align": {
        "--output",
        "--identity-level",
        "--on-missing",
        "--minimum-face",
        "--minimum-size",
        "--minimum-probability",
        "--aligned",
        "--encoding",
        "--container",
        "--runtime",
        "--shard",
        "--engine",
        "--remove-missing",
        "--workers",
    },
    "inspect": {"--output", "--samples"},
    "convert": set(),
    "train": {"--config", "--output", "--resume", "--init", "--profile", "--download", "--print_config"},
    "doctor": {"--config", "--print_config"},
    "overfit": {"--config", "--print_config"},
    "evaluate": {"--data", "--outside", "--best", "--output"},
    "attack": {
        "--data",
        "--attack",
        "--detector",
        "--images",
        "--epsilon",
        "--iterations",
        "--untargeted",
        "--seed",
        "--output",
    },
    "detect": {"--detector", "--false-alarms", "--data", "--output"},
    "export": {"--output", "--preprocessing", "--license", "--json"},
    "embed": {
        "--model",
        "--output",
        "--policy",
        "--identity-level",
        "--runtime",
        "--engine",
        "--workers",
        "--device",
        "--json",
    },
    "match": {
        "--model",
        "--policy",
        "--threshold",
        "--false-match-rate",
        "--prior",
        "--output",
        "--device",
        "--json",
    },
    "compare": {"--group", "--score", "--difference", "--output"},
    "quality": {"--photos", "--pairs", "--max-pairs", "--seed", "--output"},
    "enroll": {
        "--gallery",
        "--index",
        "--model",
        "--name",
        "--policy",
        "--no-strict",
        "--identity-level",
        "--device",
        "--json",
    },
    "search": {
        "--gallery",
        "--index",
        "--model",
        "--k",
        "--policy",
        "--threshold",
        "--false-match-rate",
        "--prior",
        "--device",
        "--json",
    },
    "gallery": set(),
    "identify": {"--photos", "--gallery-images", "--non-mated", "--repeats", "--seed", "--output"},
    "verify": {
        "--photos",
        "--bin",
        "--embeddings",
        "--pairs",
        "--templates",
        "--attributes",
        "--allow-missing",
        "--plda",
        "--calibrate",
        "--output",
        "--device",
        "--workers",
    },
    "verify-lfw": {"--lfw", "--pairs", "--plda", "--calibrate", "--output", "--device", "--workers"},
    "serve": {
        "--gallery",
        "--index",
        "--host",
        "--port",
        "--keep",
        "--max-bytes",
        "--max-pixels",
        "--max-faces",
        "--max-requests",
        "--max-batch",
        "--timeout",
        "--device",
    },
    "reproduce": {
        "--data",
        "--output",
        "--config",
        "--budget",
        "--filter",
        "--array",
        "--jobs",
        "--download",
        "--dry-run",
        "--images",
        "--attack-iterations",
    },
    "demo": {"--output", "--seed"},
}


def test_verbs_and_options_are_these() -> None:
    assert set(VERBS) == set(OPTIONS)
    for verb, expected in OPTIONS.items():
        parser = importlib.import_module(f"facegm.cli.{verb.replace('-', '_')}").parser()
        options = {name for action in parser._actions for name in action.option_strings}
        sections = {f"--{field.name}" for field in fields(FaceRunConfig)} if "--print_config" in expected else set()
        keys = {name for name in options if "." in name}
        assert options - keys - sections - {"-h", "--help"} == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: facegm COMMAND"),
        (["identity"], 2, "no such command: identity"),
        (["align", "photos"], 2, "required: --output"),
        (["align", "missing", "--output", "store"], 1, "missing: no such folder, list, tar, rec or LMDB file"),
        (["align", "empty", "--output", "store"], 1, "empty: no photo found"),
        (
            ["align", "empty", "--output", "store", "--workers", "0"],
            2,
            "--workers: 0, must be a whole number, at least 1",
        ),
        (["align", "empty", "--output", "store", "--minimum-face", "11"], 2, "minimum_face: 11, must be at least 12"),
        (["inspect"], 2, "required: store"),
        (["inspect", "empty"], 1, "empty: not a store of aligned faces"),
        (["inspect", "empty", "--samples", "0"], 2, "--samples: 0, must be a whole number, at least 1"),
        (["train"], 2, "give either --config CONFIG"),
        (["train", "--config", "nothing.yaml"], 2, "no such configuration file; shipped ones"),
        (["train", "--config", "demo.yaml", "--train.epoch=1"], 2, "did you mean train.epochs?"),
        (["train", "--config", "demo.yaml", "--optimizer.lr=0.1"], 2, "did you mean optimizer.learning_rate?"),
        (["train", "--config", "demo.yaml", "--data.exclude_identities=7201"], 2, "data.exclude_identities"),
        (["train", "--config", "demo.yaml", "--init"], 2, "--init: expected one argument"),
        (["train", "--config", "demo.yaml", "--validation.store=empty"], 2, "pairs: None, must be given together"),
        (["train", "--config", "demo.yaml", "--data.store=empty"], 1, "not a store of aligned faces; make one by"),
        (["train", "--resume", "empty"], 1, "not a run folder"),
        (["train", "--resume", "empty", "--train.epochs=2"], 2, "goes by the run's own configuration"),
        (["train", "--resume", "empty", "--init", "a.safetensors"], 2, "goes by the run's own configuration"),
        (["train", "--resume", "empty", "--output", "run"], 2, "give either --config CONFIG"),
        (["doctor", "--config", "nothing.yaml"], 2, "no such configuration file; shipped ones"),
        (["doctor", "--data.store=empty"], 1, "not a store of aligned faces; make one by"),
        (["overfit"], 2, "give --config CONFIG"),
        (["overfit", "--config", "demo.yaml", "--train.epoch=1"], 2, "did you mean train.epochs?"),
        (["overfit", "--config", "demo.yaml", "--data.store=empty"], 1, "not a store of aligned faces; make one by"),
        (["evaluate"], 2, "required: run"),
        (["evaluate", "empty"], 1, "empty: not a run folder"),
        (["evaluate", "missing.safetensors"], 1, "missing.safetensors: no such classifier"),
        (["evaluate", "missing.safetensors", "--best"], 2, "--best: takes a run folder"),
        (["attack"], 2, "required: run"),
        (["attack", "empty"], 1, "empty: not a run folder"),
        (["attack", "empty", "--attack", "cw2"], 2, "invalid choice: 'cw2'"),
        (["attack", "empty", "--epsilon", "nan"], 2, "--epsilon: nan, must be a number above 0, at most 1"),
        (["attack", "missing.safetensors"], 1, "missing.safetensors: no such classifier"),
        (["detect", "empty"], 2, "required: images"),
        (["detect", "empty", "empty"], 1, "empty: not a run folder"),
        (["detect", "empty", "empty", "--false-alarms", "1"], 2, "--false-alarms: 1, must be a number from 0 to"),
        (["embed", "empty", "--output", "faces.npz"], 2, "required: --model"),
        (
            ["embed", "empty", "--model", "m", "--output", "faces"],
            2,
            "faces: give an --output that ends in .parquet or",
        ),
        (["embed", "empty", "--model", "m.safetensors", "--output", "a.npz"], 1, "m.safetensors: no such model file"),
        (["match", "a.jpg", "--model", "m"], 2, "required: photo_b"),
        (["match", "a.jpg", "b.jpg", "--model", "m.safetensors"], 1, "m.safetensors: no such model file"),
        (
            ["match", "a.jpg", "b.jpg", "--model", "m", "--prior", "1"],
            2,
            "--prior: 1, must be a number above 0 and below",
        ),
        (["match", "a.jpg", "b.jpg", "--model", "m", "--output", "a.png"], 2, "a.png: the page is HTML"),
        (
            ["match", "a.jpg", "b.jpg", "--model", "m", "--threshold", "1", "--false-match-rate", "0.1"],
            2,
            "give --threshold or --false-match-rate, not both",
        ),
        (["quality", "empty"], 2, "required: --photos"),
        (["quality", "empty", "--photos", "empty"], 1, "empty: not the run folder of a face network"),
        (["quality", "missing.safetensors", "--photos", "empty"], 1, "missing.safetensors: no such model file"),
        (["enroll", "empty", "--gallery", "g"], 2, "required: --model"),
        (["enroll", "empty", "--gallery", "g", "--model", "empty"], 1, "empty: no photo found"),
        (["enroll", "a.jpg", "--gallery", "g", "--model", "empty"], 2, "give --name NAME of whom the photos show"),
        (["enroll", "a.jpg", "--name", "Ann", "--gallery", "g", "--model", "empty"], 1, "no embedder.safetensors here"),
        (["search", "a.jpg", "--gallery", "g"], 2, "required: --model"),
        (["search", "a.jpg", "--gallery", "g", "--model", "m", "--k", "0"], 2, "--k: 0, must be a whole number"),
        (["search", "a.jpg", "--gallery", "g", "--model", "m", "--threshold", "3"], 2, "above 0, at most 2"),
        (["search", "a.jpg", "--gallery", "g", "--model", "m"], 1, "m: no such model file"),
        (["search", "a.jpg", "--gallery", "g", "--model", "m", "--index", "pq"], 2, "invalid choice: 'pq'"),
        (["gallery", "g"], 2, "required: ACTION"),
        (["gallery", "milvus+nowhere/people", "list"], 2, "expected milvus+http://HOST:PORT/COLLECTION"),
        (["gallery", "g", "list"], 1, "g: no such gallery"),
        (["gallery", "empty", "list"], 1, "empty: no such gallery"),
        (["identify", "empty"], 2, "give --photos STORE, whose faces empty is to embed"),
        (["identify", "a.npz", "--photos", "empty"], 2, "--photos: a.npz holds embeddings of photos already"),
        (["identify", "a.npz"], 1, "a.npz: no such file"),
        (["identify", "a.npz", "--non-mated", "1"], 2, "--non-mated: 1, must be a number from 0 to below 1"),
        (["verify", "empty"], 2, "give one of --photos FOLDER, --bin FILE and --embeddings FILE"),
        (["verify", "empty", "--photos", "empty"], 2, "give --pairs FILE"),
        (["verify", "--photos", "empty", "--pairs", "p.txt"], 2, "give the model"),
        (["verify", "empty", "--embeddings", "e.npz", "--pairs", "p.txt"], 2, "take the place of a model"),
        (["verify", "empty", "--bin", "lfw.bin", "--pairs", "p.txt"], 2, "--pairs: lfw.bin holds its own pairs"),
        (["verify", "empty", "--bin", "lfw.bin"], 1, "lfw.bin: cannot be read"),
        (["verify", "empty", "--photos", "empty", "--pairs", "p.txt"], 1, "p.txt: cannot be read"),
        (["verify-lfw", "empty", "--lfw", "empty"], 1, "empty: no pairs.txt here or in the folder above"),
        (["export", "empty", "--output", "model.pt"], 2, "--output: model.pt, must be a file that ends in .onnx"),
        (["export", "a.onnx", "--output", "b.onnx"], 1, "a.onnx: no such model file"),
        (
            ["export", "empty", "--output", "b.onnx", "--preprocessing", "insightface"],
            2,
            "--preprocessing: empty says itself how faces are prepared for it",
        ),
        (["export", "empty", "--output", "b.onnx"], 1, "empty: no embedder.safetensors here"),
        (
            ["export", "a.onnx", "--output", "b.onnx", "--preprocessing", "insightface"],
            1,
            "a.onnx: no such model file",
        ),
        (["serve"], 2, "required: model"),
        (["serve", "missing.safetensors", "--port", "0"], 1, "missing.safetensors: no such model file"),
        (["serve", "empty", "--port", "0", "--keep", "kept"], 1, "empty: no embedder.safetensors here"),
        (["serve", "empty", "--port", "70000"], 2, "--port 70000: at most 65535"),
        (["serve", "empty", "--host", "nowhere.invalid"], 1, "nowhere.invalid port 8000"),
        (["serve", "empty", "--max-requests", "0"], 2, "--max-requests: 0, must be a whole number, at least 1"),
        (["serve", "empty", "--max-pixels", "100000000"], 2, "--max-pixels 100000000: no more than 89,478,485"),
        (["demo", "--seed", "-1"], 2, "--seed: -1, must be a whole number, at least 0"),
        (["align", "empty", "--output", "store", "--workers", "two"], 2, "two, must be a whole number"),
    ],
)
def test_wrong_use_speaks(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"], "a refused command leaves nothing behind"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    assert main(["align", str(tmp_path / "photos"), "--output", str(tmp_path / "file" / "store")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["align", "--help"], ["train", "--help"], ["--version"]])
def test_help_goes_to_standard_output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out


def test_help_of_train_shows_what_each_key_means(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    assert "Weight lambda of the likelihood" in " ".join(capsys.readouterr().out.split())


def test_importing_facegm_stays_light() -> None:
    heavy = "{'torch', 'torchvision', 'cv2', 'facenet_pytorch', 'matplotlib', 'sklearn'}"
    code = f"import sys, facegm, facegm.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"
