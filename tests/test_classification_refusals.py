"""Protects `facegm train` of classifiers from wrong use: one clear sentence, and nothing is left behind."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from image_sets import alternating, write_cifar10, write_mnist

from facegm.classification.config import ImageRunConfig
from facegm.classification.data import open_images
from facegm.classification.run import image_setup
from facegm.cli import main
from facegm.config import parse_config, shipped_configs
from facegm.errors import FacegmError
from facegm.training.distributed import Processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder / "mnist", alternating(64, 10), alternating(30, 10))
    write_cifar10(folder / "cifar10", alternating(40, 10), alternating(20, 10))
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["train", "--config", "folder.yaml", "--data.folder=photos", "--download"],
            2,
            "--download: photos of data.set",
        ),
        (["train", "--config", "demo.yaml", "--download"], 2, "--download: there is nothing to fetch for a face"),
        (["doctor", "--config", "mnist.yaml"], 2, "mnist.yaml: of a classifier; this command looks at runs of face"),
        (["overfit", "--config", "cifar10.yaml"], 2, "cifar10.yaml: of a classifier; this command looks at runs of"),
        (["train", "--config", "mnist.yaml", "--data.store=faces"], 2, "--data.store: no such configuration key"),
        (["train", "--config", "demo.yaml", "--data.folder=x"], 2, "--data.folder: no such configuration key"),
        (["train", "--config", "mnist.yaml", "--model.name=resnet21"], 2, "resnet21"),
        (["train", "--config", "mnist.yaml", "--data.held_out=1"], 2, "data.held_out: 1.0, must be above 0"),
        (["train", "--config", "mnist.yaml", "--model.feature_dim=0"], 2, "model.feature_dim: 0, must be at least 1"),
        (
            ["train", "--config", "mnist.yaml", "--preprocessing.std=[0]"],
            2,
            "preprocessing.std: [0.0], must be above 0",
        ),
        (["train", "--config", "mnist.yaml", "--preprocessing.mean=[.nan]"], 2, "preprocessing.mean: [nan], must be"),
        (["train", "--config", "mnist.yaml", "--optimizer.decay=0"], 2, "optimizer.decay: 0.0, must be above 0"),
        (["train", "--config", "mnist.yaml", "--train.epochs=0"], 2, "train.epochs: 0.0, must be above 0"),
        (["train", "--config", "mnist.yaml", "--data.folder=nothing"], 1, "nothing: no files of MNIST"),
        (
            ["train", "--config", "mnist.yaml", "--data.leave_out=[10]", "--data.folder=MNIST"],
            1,
            "data.leave_out: 10: no such class; there are 0, 1",
        ),
        (
            ["train", "--config", "mnist.yaml", "--train.batch_size=65", "--data.folder=MNIST"],
            1,
            "64 images do not fill one batch of 65; lower train.batch_size",
        ),
        (
            ["train", "--config", "mnist.yaml", "--model.name=resnet20", "--data.folder=MNIST"],
            2,
            "model.feature_relu: True, must be False for resnet20",
        ),
        (
            [
                "train",
                "--config",
                "mnist.yaml",
                "--model.name=resnet18",
                "--model.feature_relu=false",
                "--data.folder=MNIST",
            ],
            1,
            "model.name: resnet18, takes RGB images",
        ),
        (
            ["train", "--config", "mnist.yaml", "--preprocessing.mean=[0.1,0.2,0.3]", "--data.folder=MNIST"],
            1,
            "preprocessing.mean: 3 numbers, for images of 1 channel",
        ),
        (
            ["train", "--config", "cifar10.yaml", "--model.name=lenet_plus_plus", "--data.folder=CIFAR"],
            1,
            "model.name: lenet_plus_plus takes images of 28 pixels, and these have 32",
        ),
    ],
)
def test_wrong_use_speaks_and_leaves_nothing_behind(
    arguments: list[str],
    code: int,
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"=MNIST": f"={data / 'mnist'}", "=CIFAR": f"={data / 'cifar10'}"}
    for short, place in places.items():
        arguments = [argument.replace(short, place) for argument in arguments]
    assert main(arguments) == code
    found = capsys.readouterr().err
    assert message in found
    assert "Traceback" not in found
    assert not list(tmp_path.iterdir())


def test_means_that_are_split_over_processes_are_refused_at_once(data: Path, tmp_path: Path) -> None:
    """Protects from hours of training that end at the first validation, which cannot be."""
    options = [f"--data.folder={data / 'mnist'}", "--train.batch_size=16", "--loss.gm.shard_means=true"]
    config = parse_config(shipped_configs()["mnist.yaml"], ImageRunConfig, options)
    images, test = (open_images(config.data, part) for part in ("train", "test"))
    two = Processes(rank=0, world_size=2, device=torch.device("cpu"))
    with pytest.raises(FacegmError, match=r"^loss.gm.shard_means: "):
        image_setup(config, images, test, tmp_path, two)
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    assert image_setup(config, images, test, tmp_path, alone).title.startswith("64 images of 10 classes")


@pytest.mark.parametrize(("key", "value"), [("set", "cifar10"), ("folder", "photos")])
def test_a_classifiers_configuration_without_its_task_is_told_what_it_lacks(
    key: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(f"data:\n  {key}: {value}\n")
    assert main(["train", "--config", str(tmp_path / "own.yaml"), "--output", str(tmp_path / "run")]) == 2
    message = f"{tmp_path}/own.yaml: data.{key} is a classifier's key; add the line task: classification"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def help_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_the_keys_of_the_configuration_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    of_classifiers = help_of(["train", "--config", "mnist.yaml"], capsys)
    for key in ("--data.leave_out", "--data.held_out", "--model.feature_relu", "--preprocessing.mean", "--download"):
        assert key in of_classifiers
    assert "Classes to leave out of training" in of_classifiers
    assert "--data.store" not in of_classifiers
    of_faces = help_of(["train"], capsys)
    assert "--data.store" in of_faces
    assert "--data.leave_out" not in of_faces
    assert help_of(["train", "--config", "demo.yaml"], capsys) == of_faces
