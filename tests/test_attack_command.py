"""`facegm attack` from a run that `facegm train` has made to attacked images and report, and what it refuses."""

import csv
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import write_idx
from pages import Page
from pattern_runs import patterns, shallow_networks, train_on_patterns
from PIL import Image
from safetensors.torch import load_file

from facegm.adversarial.attack_run import AttackOptions
from facegm.adversarial.recipe import ATTACKS
from facegm.classification.classifier import load_classifier
from facegm.cli import main
from facegm.errors import UsageError

CLASSES, TEST = 4, 40
QUICK = ("--attack", "fgsm", "--attack", "bim", "--images", "16", "--iterations", "4", "--epsilon", "0.2")


@pytest.fixture(scope="module", autouse=True)
def quick_networks() -> Iterator[None]:
    with shallow_networks():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    options = ["--train.batch_size=16", "--train.epochs=5", "--optimizer.learning_rate=0.05"]
    return train_on_patterns(folder, *options, classes=CLASSES, train=160, test=TEST)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, with nothing beside the weights."""
    for name in ("config.yaml", "classifier.safetensors"):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(trained / name, tmp_path / "run")
    return tmp_path / "run"


def attack(*arguments: str | Path) -> dict[str, Any]:
    """The command's numbers."""
    given = list(map(str, arguments))
    assert main(["attack", *given]) == 0
    output = Path(given[given.index("--output") + 1] if "--output" in given else Path(given[0]) / "attack")
    Page.of((output / "attack.html").read_text("utf-8"))
    found: dict[str, Any] = json.loads((output / "attack.json").read_text("utf-8"))
    return found


def table(output: Path) -> list[dict[str, str]]:
    with (output / "attack.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@torch.no_grad()
def logits_of(run: Path, images: torch.Tensor) -> np.ndarray:
    """-||x - mu||^2 / 2, in float64."""
    classifier = load_classifier(run).double()
    features = classifier.features(images.double()).numpy()
    means = classifier.loss.means.numpy()  # type: ignore[operator]
    return np.asarray(-np.square(features[:, None] - means).sum(axis=2) / 2)


def test_the_table_is_what_the_network_makes_of_the_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure again, in float64, from the files alone."""
    found = attack(run, *QUICK)
    said = capsys.readouterr().out
    rows = table(run / "attack")
    images, labels = patterns(TEST, 2, classes=CLASSES)
    assert found["examined"] == 16
    assert len(rows) == 2 * found["attacked"]
    for one in found["attacks"]:
        own = [row for row in rows if row["attack"] == one["attack"]]
        numbers = [int(row["image"].removeprefix("image ")) for row in own]
        assert numbers == sorted(set(numbers))
        clean = torch.from_numpy(images[numbers])[:, None].double() / 255
        assert [row["label"] for row in own] == [str(labels[number]) for number in numbers]
        assert (logits_of(run, clean).argmax(axis=1) == labels[numbers]).all(), "others are left alone"
        floats = load_file(run / "attack" / one["attack"] / "0.safetensors")["images"]
        pngs = np.stack([np.asarray(Image.open(run / "attack" / row["file"])) for row in own])
        np.testing.assert_array_equal(pngs, np.rint(255 * floats[:, 0].double().numpy()))
        rounded = torch.from_numpy(pngs)[:, None].double() / 255
        for prefix, some in (("", floats), ("_quantised", rounded)):
            logits = logits_of(run, some)
            predicted = logits.argmax(axis=1)
            assert [row[f"predicted{prefix}"] for row in own] == [str(number) for number in predicted]
            is_success = [str(number) == row["target"] for number, row in zip(predicted, own, strict=True)]
            assert [bool(int(row[f"success{prefix}"])) for row in own] == is_success
            assert one[f"success{prefix}"] == pytest.approx(np.mean(is_success))
            change = 255 * np.sqrt(np.square((some - clean).numpy()).mean(axis=(1, 2, 3)))
            assert [float(row[f"distortion{prefix}"]) for row in own] == pytest.approx(change, rel=1e-4)
            score = [float(row[f"gm-likelihood{prefix.replace('_', ' ')}"]) for row in own]
            assert score == pytest.approx(logits.max(axis=1), rel=1e-3, abs=1e-3)
        change = 255 * (floats.double() - clean).abs().amax(dim=(1, 2, 3)).numpy()
        assert [float(row["largest_change"]) for row in own] == pytest.approx(change, rel=1e-3)
        assert change.max() <= 0.2 * 255 + 1e-3
        assert all(row["target"] != row["label"] for row in own)
        assert {int(row["passes"]) for row in own} == {1 if one["attack"] == "fgsm" else 4}
        assert one["settings"]["seed"] == 0
        assert f"{one['attack']}: success {one['success']:.2%}" in said
    bim = found["attacks"][1]
    assert (bim["settings"]["epsilon"], bim["settings"]["step"]) == (0.2, pytest.approx(0.02))
    assert bim["success"] > 0.3, "an attack that works, of which the figures say something"
    assert sorted(bim["detectors"]) == ["gm-likelihood", "k-density"]
    assert "No robustness claimed" in " ".join(found["verdict"])
    assert f"report: {run / 'attack' / 'attack.html'}" in said


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_interrupted_and_called_again_it_ends_with_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = [str(run), "--attack", "bim", "--attack", "ddn", "--images", "8", "--iterations", "3"]
    assert main(["attack", *arguments, "--output", str(tmp_path / "whole")]) == 0
    again = ["attack", *arguments, "--output", str(tmp_path / "parts")]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("facegm.adversarial.craft.ddn", interrupt)
        assert main(again) == 130
    assert list(files(tmp_path / "parts")) == ["bim/0.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr("facegm.adversarial.craft.sign_attack", interrupt)  # it is not called
        assert main(again) == 0
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    damaged = tmp_path / "parts" / "bim" / "0.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert main(again) == 0
    assert f"{damaged}: damaged" in caplog.text
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_pictures_of_other_images_do_not_stay(run: Path) -> None:
    attack(run, "--attack", "fgsm", "--images", "16")
    attack(run, "--attack", "fgsm", "--images", "5", "--seed", "3")
    written = sorted(str(path.relative_to(run / "attack")) for path in (run / "attack").rglob("*.png"))
    assert written == sorted(row["file"] for row in table(run / "attack"))


def test_a_detector_that_is_known_is_passed(run: Path) -> None:
    """The attack on both has to get by a detector that notices the attack on the network alone."""
    options = ["--detector", "gm-likelihood", "--images", "12", "--iterations", "20", "--epsilon", "0.3"]
    found = attack(run, "--attack", "bim", "--attack", "orthogonal", *options)
    assert found["facts"]["detector attacked"] == "gm-likelihood"
    bim, orthogonal = (one["detectors"]["gm-likelihood"] for one in found["attacks"])
    assert orthogonal["area"] < bim["area"] or bim["area"] <= 0.5
    assert "No robustness claimed" in " ".join(found["verdict"])


def test_a_file_alone_and_images_of_ones_own(run: Path, tmp_path: Path) -> None:
    images, labels = patterns(12, 9, classes=CLASSES)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / str(label) / f"{number}.png")
    options: list[str | Path] = [
        "--data",
        tmp_path / "photos",
        "--output",
        tmp_path / "out",
        "--attack",
        "fgsm",
        "--untargeted",
    ]
    found = attack(run / "classifier.safetensors", *options)
    assert found["examined"] == 12
    assert list(found["attacks"][0]["detectors"]) == ["gm-likelihood"], "training images are not known"
    rows = table(tmp_path / "out")
    assert {row["image"] for row in rows} <= {str(path) for path in (tmp_path / "photos").rglob("*.png")}
    assert all(row["target"] == "" and (row["success"] == "1") == (row["predicted"] != row["label"]) for row in rows)


def test_what_is_asked_for_changes_the_recipes() -> None:
    recipes = AttackOptions(
        attacks=["fgsm", "pgd", "cw"], epsilon=0.05, iterations=7, is_untargeted=True, seed=3
    ).recipes()
    assert recipes["fgsm"].step == pytest.approx(0.05)
    assert recipes["pgd"].step == pytest.approx(0.005)
    common: dict[str, Any] = {"targets": "none", "seed": 3}
    assert {name: replace(recipe, step=1) for name, recipe in recipes.items()} == {
        "fgsm": replace(ATTACKS["fgsm"], epsilon=0.05, step=1, **common),
        "pgd": replace(ATTACKS["pgd"], epsilon=0.05, step=1, iterations=7, **common),
        "cw": replace(ATTACKS["cw"], iterations=7, step=1, **common),
    }
    assert AttackOptions(attacks=["cw-hc"]).recipes() == {"cw-hc": ATTACKS["cw-hc"]}
    with pytest.raises(UsageError, match="cw-wb"):
        AttackOptions(attacks=["cw-wb"], is_untargeted=True).recipes()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 1) -> str:
    capsys.readouterr()
    assert main(["attack", *map(str, arguments)]) == code
    return capsys.readouterr().err


def test_what_cannot_be_used_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--attack", "fgsm", "--images", "4")
    assert "give --data FOLDER" in refused(capsys, run / "classifier.safetensors", *quick)
    (tmp_path / "photos" / "1").mkdir(parents=True)
    (tmp_path / "photos" / "2").mkdir()
    for name in ("1/a.png", "2/b.png"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    photos = ("--data", tmp_path / "photos")
    assert "a.png: not an image" in refused(capsys, run, *quick, *photos)
    (tmp_path / "photos" / "2").rename(tmp_path / "photos" / "dog")
    assert "its class, dog, is none of 4" in refused(capsys, run, *quick, *photos)
    for part in ("train", "t10k"):
        write_idx(tmp_path / "digits", part, *patterns(8, 0, classes=CLASSES))
    labels = next((tmp_path / "digits").glob("t10k*labels*"))
    labels.write_bytes(labels.read_bytes()[:-3])
    assert labels.name in refused(capsys, run, *quick, "--data", tmp_path / "digits")
    assert "no such detector; there are k-density" in refused(capsys, run, *quick, "--detector", "magic", code=2)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no detector")
    assert "broken.safetensors: damaged" in refused(capsys, run, *quick, "--detector", broken)
    options = ("--attack", "orthogonal", "--detector", "mahalanobis")
    assert "attacks know k-density and gm-likelihood" in refused(capsys, run, *options, "--images", "4", code=2)
    content = (run / "classifier.safetensors").read_bytes()
    (run / "classifier.safetensors").write_bytes(content[: len(content) // 2])
    assert "classifier.safetensors: damaged" in refused(capsys, run, *quick)
    assert not (run / "attack").exists(), "a refused command leaves nothing behind"


def test_a_face_network_is_attacked_by_other_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("data:\n  store: faces\n")
    assert "required: --lfw" in refused(capsys, tmp_path, code=2)
    assert main(["attack", str(tmp_path), "--help"]) == 0
    assert "impersonation" in capsys.readouterr().out


def test_wrong_labels_are_noticed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = patterns(32, 5, classes=CLASSES)
    for part in ("train", "t10k"):
        write_idx(tmp_path / "digits", part, images, (labels + 1) % CLASSES)
    said = refused(capsys, run, "--attack", "fgsm", "--images", "32", "--data", tmp_path / "digits")
    assert "chance among 4 classes" in said


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects a user's own network, attacked by what the documentation shows."""
    text = (Path(__file__).parents[1] / "docs" / "adversarial.md").read_text("utf-8")
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)  # type: ignore[index]
    attacked, images = scope["attacked"], scope["images"]
    assert (attacked.targets != scope["labels"]).all()
    predicted = scope["network"](attacked.images).argmax(dim=1)
    assert (attacked.is_success == (predicted == attacked.targets)).all()
    assert 0 < (attacked.images - images).abs().max() <= 0.1 + 1e-6
    assert "tensor" in capsys.readouterr().out
