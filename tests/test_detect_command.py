"""`facegm detect` from a run that `facegm train` has made to the report, and what it refuses."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import write_idx
from pages import Page
from pattern_runs import patterns, shallow_networks, train_on_patterns
from PIL import Image
from scipy.special import logsumexp

from facegm.adversarial.detectors.detector_file import load_detector
from facegm.adversarial.detectors.k_density import KDensity
from facegm.classification.classifier import load_classifier
from facegm.cli import main

CLASSES, TEST = 4, 40


@pytest.fixture(scope="module", autouse=True)
def quick_networks() -> Iterator[None]:
    with shallow_networks():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    return train_on_patterns(folder, "--train.batch_size=16", classes=CLASSES, train=160, test=TEST)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, with nothing beside the weights."""
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "classifier.safetensors"):
        shutil.copy(trained / name, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def suspicious(tmp_path: Path) -> Path:
    """Six patterns and six pictures of noise, in no class's folder."""
    (tmp_path / "suspicious").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    for name, images in (("pattern", patterns(6, 7, classes=CLASSES)[0]), ("noise", noise)):
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "suspicious" / f"{name}-{number}.png")
    return tmp_path / "suspicious"


def detect(*arguments: str | Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The command's numbers, and its table."""
    given = list(map(str, arguments))
    assert main(["detect", *given]) == 0
    output = Path(given[given.index("--output") + 1] if "--output" in given else Path(given[0]) / "detect")
    Page.of((output / "detect.html").read_text("utf-8"))
    with (output / "detect.csv").open(encoding="utf-8", newline="") as file:
        return json.loads((output / "detect.json").read_text("utf-8")), list(csv.DictReader(file))


@torch.no_grad()
def features_and_classes(run: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64."""
    classifier = load_classifier(run).double()
    features = classifier.features(torch.from_numpy(images)[:, None].double() / 255)
    return features.numpy(), classifier.loss.logits(features).argmax(dim=1).numpy()


def read(rows: list[dict[str, str]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(row["image"])) for row in rows])


def test_the_likelihood_of_each_image(run: Path, suspicious: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, rows = detect(run, suspicious, "--false-alarms", "0.4")
    said = capsys.readouterr().out
    means = load_classifier(run).loss.means.double().detach().numpy()  # type: ignore[operator]

    def score(features: np.ndarray) -> np.ndarray:
        return np.array([max(-np.square(one - mean).sum() / 2 for mean in means) for one in features])

    clean = np.sort(score(features_and_classes(run, patterns(TEST, 2, classes=CLASSES)[0])[0]))
    assert found["threshold"] == pytest.approx(clean[16], rel=1e-3), "below it lie 16 of 40"
    assert (found["clean"], found["false_alarms"]) == (TEST, pytest.approx(0.4))
    features, classes = features_and_classes(run, read(rows))
    assert [row["predicted"] for row in rows] == [str(number) for number in classes]
    assert [float(row["score"]) for row in rows] == pytest.approx(score(features), rel=1e-3)
    flags = score(features) < clean[16]
    assert [bool(int(row["manipulated"])) for row in rows] == list(flags)
    assert found["manipulated"] == flags.sum()
    assert f"{flags.sum()} of 12 images are taken for manipulated by gm-likelihood" in said
    assert "No robustness claimed" in said
    assert "No robustness claimed" in Page.of((run / "detect" / "detect.html").read_text("utf-8")).text
    assert 0 < flags.sum() < 12, "figures that say something"


def test_k_density_is_fitted_once(run: Path, suspicious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, rows = detect(run, suspicious, "--detector", "k-density")
    (file,) = (run / "detectors").iterdir()
    bandwidth = float(load_detector(file).bandwidth_)  # type: ignore[attr-defined]
    images, labels = patterns(160, 1, classes=CLASSES)
    centers = features_and_classes(run, images)[0]
    expected = []
    for one, number in zip(*features_and_classes(run, read(rows)), strict=True):
        exponents = [-np.square(one - center).sum() / (2 * bandwidth**2) for center in centers[labels == number]]
        expected.append(logsumexp(exponents) - np.log(len(exponents)))
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, rel=1e-3)

    def refuse(*_: object) -> None:
        raise AssertionError("fitted before")

    with monkeypatch.context() as patch:
        patch.setattr(KDensity, "fit", refuse)
        assert detect(run, suspicious, "--detector", "k-density") == (found, rows)
    file.write_bytes(file.read_bytes()[:100])
    assert detect(run, suspicious, "--detector", "k-density") == (found, rows), "a damaged one is made anew"


def test_a_file_alone_with_a_fitted_detector(run: Path, suspicious: Path, tmp_path: Path) -> None:
    _, expected = detect(run, suspicious, "--detector", "mahalanobis")
    (file,) = (run / "detectors").iterdir()
    clean = run.parent / "digits"
    for part in ("train", "t10k"):
        write_idx(clean, part, *patterns(TEST, 2, classes=CLASSES))
    options: list[str | Path] = ["--detector", file, "--data", clean, "--output", tmp_path / "out"]
    assert detect(run / "classifier.safetensors", suspicious, *options)[1] == expected


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 1) -> str:
    capsys.readouterr()
    assert main(["detect", *map(str, arguments)]) == code
    return capsys.readouterr().err


def test_what_cannot_be_used_is_named(
    run: Path, suspicious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give --data FOLDER" in refused(capsys, run / "classifier.safetensors", suspicious)
    assert "no such detector; there are k-density" in refused(capsys, run, suspicious, "--detector", "magic", code=2)
    assert "missing" in refused(capsys, run, tmp_path / "missing")
    (suspicious / "b.png").write_bytes(b"no image")
    assert "b.png: not an image" in refused(capsys, run, suspicious)
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "config.yaml").write_text("data:\n  store: faces\n")
    assert "the run of a face network" in refused(capsys, faces, suspicious)
    assert not (run / "detect").exists(), "a refused command leaves nothing behind"


def test_the_likelihood_is_the_gm_losss_alone(
    suspicious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--loss.name=softmax", "--train.batch_size=8", "--train.epochs=0.1"]
    other = train_on_patterns(tmp_path / "softmax", *options, classes=2, train=16, test=8)
    said = refused(capsys, other, suspicious, "--detector", "gm-likelihood", code=2)
    assert "a classifier with the softmax loss has no likelihood; name k-density" in said
    found, _ = detect(other, suspicious)
    assert found["detector"] == "k-density"
