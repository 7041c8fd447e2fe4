"""`facegm evaluate` from a run that `facegm train` has made to the report, and what it refuses."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import write_idx
from image_runs import make_photos
from pages import Page
from pattern_runs import patterns, shallow_networks, train_on_patterns, train_small
from PIL import Image
from scipy.special import logsumexp

from facegm.classification.classifier import load_classifier
from facegm.cli import main

CLASSES, LEFT_OUT = 8, 7


@pytest.fixture(scope="module", autouse=True)
def quick_networks() -> Iterator[None]:
    with shallow_networks():
        yield


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The run's test images, and their labels."""
    return patterns(96, 2, classes=CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of digits, all but one class."""
    folder = tmp_path_factory.mktemp("digits")
    options = [f"--data.leave_out=[{LEFT_OUT}]", "--train.batch_size=12"]
    return train_on_patterns(folder, *options, classes=CLASSES, train=192, test=96)


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of photos in a folder, with the softmax loss."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder)
    (folder / "held-out").rename(folder / "val")
    options = [f"--data.folder={folder}", "--data.side=20", "--data.resize=24", "--loss.name=softmax"]
    train_small("folder.yaml", folder / "run", [*options, "--train.epochs=3", "--train.batch_size=12"])
    return folder / "run"


def evaluate(*arguments: str | Path) -> dict[str, Any]:
    """The command's numbers, which have to be in the folder `output` or of the run."""
    assert main(["evaluate", *map(str, arguments)]) == 0
    given = list(map(str, arguments))
    usual = Path(given[0]) / ("evaluation-best" if "--best" in given else "evaluation")
    output = Path(given[given.index("--output") + 1]) if "--output" in given else usual
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.html", "evaluation.json"]
    Page.of((output / "evaluation.html").read_text("utf-8"))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found: dict[str, Any] = json.loads((output / "evaluation.json").read_text("utf-8"), parse_constant=refuse)
    return found


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("images", "accuracy", "cross_entropy", "calibration_error", "confusion")}


@torch.no_grad()
def by_hand(run: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and log-likelihood of the GM loss, in float64."""
    classifier = load_classifier(run).double()
    features = classifier.features(torch.from_numpy(images)[:, None].double() / 255).numpy()
    means = classifier.loss.means.numpy()  # type: ignore[operator]
    half_squares = np.square(features[:, None] - means).sum(axis=2) / 2
    likelihood = logsumexp(-half_squares, axis=1) - np.log(len(means)) - means.shape[1] / 2 * np.log(2 * np.pi)
    return -half_squares, likelihood


def test_numbers_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(run)
    said = capsys.readouterr().out
    images, labels = digits()
    known = labels != LEFT_OUT
    logits, likelihood = by_hand(run, images)
    assert found["classes"] == [str(number) for number in range(CLASSES - 1)]
    assert found["images"] == known.sum() == 84
    right = (logits.argmax(axis=1) == labels)[known]
    assert found["accuracy"] == pytest.approx(right.mean())
    assert 0.2 < found["accuracy"] < 1, "a run that has learned something, and not everything"
    assert found["accuracy_interval"][0] < right.mean() < found["accuracy_interval"][1]
    above = (logits > np.take_along_axis(logits, np.minimum(labels, CLASSES - 2)[:, None], axis=1)).sum(axis=1)
    assert found["top5_accuracy"] == pytest.approx((above[known] < 5).mean())
    own = np.take_along_axis(logits, np.minimum(labels, CLASSES - 2)[:, None], axis=1)[:, 0]
    assert found["cross_entropy"] == pytest.approx((logsumexp(logits, axis=1) - own)[known].mean(), rel=1e-4)
    assert sum(row["images"] for row in found["confusion"]) == 84
    assert sum(row["images"] for row in found["reliability"]) == 84
    assert len(found["mistakes"]) == (~right).sum()
    assert [row["max_log_posterior"] for row in found["mistakes"]] == sorted(
        (row["max_log_posterior"] for row in found["mistakes"]), reverse=True
    )
    assert [(row["name"], row["images"]) for row in found["outside"]] == [
        ("noise", 84),
        ("silhouettes", 84),
        ("classes left out", 12),
    ]
    inside, outside = likelihood[known], likelihood[~known]
    area = (inside[:, None] > outside).mean()
    assert found["outside"][2]["scores"]["log-likelihood"]["area"] == pytest.approx(area, abs=0.005)
    assert f"accuracy {right.mean():.2%}" in said
    assert "out-of-distribution (OOD) detection by log-likelihood, largest posterior: AUC" in said
    assert f"classes left out: {found['outside'][2]['scores']['log-likelihood']['area']:.4f}" in said
    assert f"report: {run / 'evaluation' / 'evaluation.html'}" in said
    assert found["histogram"]["score"] == "log-likelihood"
    assert {name: sum(counts) for name, counts in found["histogram"]["images"].items()} == {
        "test images": 84,
        "noise": 84,
        "silhouettes": 84,
        "classes left out": 12,
    }


def test_the_page_says_it_all(run: Path) -> None:
    found = evaluate(run)
    page = Page.of((run / "evaluation" / "evaluation.html").read_text("utf-8"))
    text = " ".join(page.text.split())
    for rate in (found["accuracy"], *found["accuracy_interval"], found["top5_accuracy"], found["calibration_error"]):
        assert f"{100 * rate:.2f} %" in text
    for row in found["outside"]:
        for score in row["scores"].values():
            assert f"{score['area']:.4f}" in text
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == min(24, len(found["mistakes"])) > 0
    assert page.tags.count("tr") > CLASSES
    worst = found["mistakes"][0]
    assert f"{worst['class']}, taken for {worst['predicted']}" in text
    assert "not Fashion-MNIST" in text
    assert "Out-of-distribution (OOD) detection" in text
    assert "classes left out of training7" in text


def test_the_same_images_from_elsewhere_give_the_same_numbers(run: Path, tmp_path: Path) -> None:
    shutil.move(shutil.copytree(run.parent / "data", tmp_path / "data"), tmp_path / "moved")
    images, labels = digits()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / str(label) / f"{number}.png")
    expected = figures(evaluate(run))
    for name in ("moved", "photos"):
        assert figures(evaluate(run, "--data", tmp_path / name, "--output", tmp_path / f"of-{name}")) == {
            name: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            for name, value in expected.items()
        }


def test_sets_that_the_user_names(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cats").mkdir()
    for number in range(3):
        Image.new("RGB", (60, 40), (number, 200, 30)).save(tmp_path / "cats" / f"{number}.jpg")
    for part in ("train", "t10k"):
        write_idx(tmp_path / "letters", part, np.full((7, 20, 20), 90, np.uint8), np.arange(7))
    found = evaluate(
        run, "--outside", tmp_path / "cats", "--outside", tmp_path / "letters", "--output", tmp_path / "report"
    )
    assert [(row["name"], row["images"]) for row in found["outside"]][3:] == [("cats", 3), ("letters", 7)]
    assert "cats: " in capsys.readouterr().out


def test_a_run_of_photos_and_its_file_alone(photo_run: Path, tmp_path: Path) -> None:
    found = evaluate(photo_run)
    assert found["images"] == 20
    assert found["top5_accuracy"] is None
    assert found["histogram"]["score"] == "energy score"
    file = tmp_path / "elsewhere.safetensors"
    shutil.copy(photo_run / "classifier.safetensors", file)
    again = evaluate(file, "--data", photo_run.parent / "val", "--output", tmp_path / "report")
    assert figures(again) == figures(found), "how photos are cropped travels with the weights"
    best = evaluate(photo_run, "--best")
    assert best["facts"]["classifier"].endswith("classifier-best.safetensors")


def test_training_photos_are_not_needed(photo_run: Path, tmp_path: Path) -> None:
    """Protects the evaluation on a machine to which the test photos alone were brought."""
    expected = figures(evaluate(photo_run))
    shutil.copytree(photo_run, tmp_path / "run")
    shutil.copytree(photo_run.parent / "val", tmp_path / "val")
    config = (photo_run / "config.yaml").read_text()
    assert f"folder: {photo_run.parent}\n" in config
    (tmp_path / "run" / "config.yaml").write_text(
        config.replace(f"folder: {photo_run.parent}\n", f"folder: {tmp_path}\n")
    )
    assert figures(evaluate(tmp_path / "run")) == expected


def test_many_classes_are_shown_by_their_confusions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegm.classification.evaluation_report.LARGEST_TABLE", 5)
    found = evaluate(run)
    text = Page.of((run / "evaluation" / "evaluation.html").read_text("utf-8")).text
    errors = [row for row in found["confusion"] if row["class"] != row["predicted"]]
    most = max(errors, key=lambda row: int(row["images"]))
    assert re.search(rf"taken for\s*images\s*{most['class']}{most['predicted']}{most['images']}", text)


def refused(*arguments: str | Path, code: int = 1) -> None:
    assert main(["evaluate", *map(str, arguments)]) == code


def test_what_is_no_ended_run_of_a_classifier_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / "config.yaml", begun)
    refused(begun)
    assert f"the run has not ended; go on with it by `facegm train --resume {begun}`" in capsys.readouterr().err
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "config.yaml").write_text("data:\n  store: faces\n")
    refused(faces)
    assert f"the run of a face network, which `facegm verify-lfw {faces}` evaluates" in capsys.readouterr().err
    refused(run / "classifier.safetensors")
    assert "give --data FOLDER" in capsys.readouterr().err
    for folder in (begun, faces):
        assert [path.name for path in folder.iterdir()] == ["config.yaml"], "a refused command leaves nothing behind"


def test_images_of_unknown_classes_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tmp_path / "photos" / name / "a.png")
    refused(run, "--data", tmp_path / "photos", "--output", tmp_path / "report")
    assert "dog/a.png: its class, dog, is none of 8" in capsys.readouterr().err
    (tmp_path / "photos" / "dog" / "a.png").write_bytes(b"no image")
    refused(run, "--outside", tmp_path / "photos", "--output", tmp_path / "report")
    assert "dog/a.png: not an image" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
