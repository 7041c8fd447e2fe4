"""Protects `facegm train` of classifiers in whole, from published files to a run folder, and how it goes on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from exact_resume import assert_same_end, newest_step
from facegm_commands import Command
from image_sets import alternating, write_cifar10, write_cifar100, write_mnist, write_photos
from pattern_runs import shallow_networks
from quick_charts import geometry_drawn

from facegm.classification.classifier import BEST_FILE, MODEL_FILE, load_classifier
from facegm.classification.config import ImageRunConfig
from facegm.classification.data import open_images
from facegm.classification.preprocessing import unit_images
from facegm.cli import main
from facegm.config import parse_config, shipped_configs
from facegm.data.samples import DrawnSamples
from facegm.training.run_folder import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")
RESNET20 = ["--model.name=resnet20", "--model.feature_relu=false"]
"""In place of mnist.yaml's network."""
QUICK = ["--train.precision=float32", "--train.epochs=2", "--train.log_every=1", "--data.workers=0"]


class Case(NamedTuple):
    """A shipped configuration, on small files."""

    config: str
    options: list[str]
    steps: int
    batch_size: int
    channels: int
    side: int
    feature_dim: int
    classes: int


CASES = {
    "mnist": Case("mnist.yaml", ["--train.batch_size=16", "--validation.every_epochs=1"], 8, 16, 1, 28, 100, 10),
    "cifar10": Case("cifar10.yaml", ["--train.batch_size=10"], 8, 10, 3, 32, 64, 10),
    "cifar100": Case("cifar100.yaml", ["--train.batch_size=4"], 4, 4, 3, 32, 384, 100),
    "imagenet": Case(
        "imagenet.yaml",
        ["--model.name=resnet18", "--data.side=32", "--data.resize=36", "--train.batch_size=6"],
        6,
        6,
        3,
        32,
        512,
        3,
    ),
    "folder": Case(
        "folder.yaml",
        ["--model.name=resnet20", "--data.side=24", "--data.resize=28", "--train.batch_size=6"],
        4,
        6,
        3,
        24,
        64,
        3,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case; the photos of the last are not yet parted."""
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder / "mnist", alternating(64, 10), alternating(30, 10))
    write_cifar10(folder / "cifar10", alternating(40, 10), alternating(20, 10))
    write_cifar100(folder / "cifar100", [99, 3, 50, 99, 3, 50, 99, 3], [3, 99, 50])
    for part, (seed, count) in {"train": (0, 6), "val": (1, 3)}.items():
        counts = dict.fromkeys(("n01440764", "n01443537", "n02102040"), count)
        write_photos(folder / "imagenet" / part, counts, seed=seed, suffix="JPEG")
    write_photos(folder / "folder", {"ant": 6, "bee": 6, "größere Biene": 3})
    return folder


def command(name: str, data: Path, run: Path, *more: str) -> list[str]:
    case = CASES[name]
    place = [f"--data.folder={data / name}", f"--output={run}"]
    return ["train", "--config", case.config, *place, *QUICK, *case.options, *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def whole(runs: Path, data: Path) -> Any:
    """A run of a case, made by the first test that asks for it, and not to be changed."""

    def run(name: str) -> Path:
        if not (runs / name).exists():
            with geometry_drawn():
                assert main(command(name, data, runs / name)) == 0
        return runs / name

    return run


def test_there_is_a_case_for_each_shipped_configuration_of_a_classifier() -> None:
    shipped = {name for name, path in shipped_configs().items() if "task: classification" in path.read_text()}
    assert {case.config for case in CASES.values()} == shipped


@pytest.mark.parametrize("name", CASES)
def test_a_run_ends_in_a_classifier_its_geometry_and_its_accuracy(name: str, whole: Any, data: Path) -> None:
    """Protects the exported classifier: it predicts the test images as well as the last line of the log says."""
    case, run = CASES[name], whole(name)
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, case.steps + 1))
    assert {"loss", "classification", "likelihood", "accuracy", "posterior", "alpha", "lambda"} <= lines[0].keys()
    assert f"{case.classes} means" in (run / "geometry.svg").read_text()
    assert (run / BEST_FILE).is_file()

    classifier = load_classifier(run)
    d = classifier.description
    assert (d.channels, d.side, len(d.classes), d.loss.name) == (case.channels, case.side, case.classes, "gm")
    assert classifier.feature_dim == case.feature_dim
    config = parse_config(run / "config.yaml", ImageRunConfig)
    assert config.data.folder == (data / name).resolve()
    test = open_images(config.data, "test", classes=d.classes)
    numbers = torch.arange(len(test.samples)).numpy()
    batch = test.samples[DrawnSamples(numbers, test.samples.draw(numbers, None))]
    pixels = batch.images if test.crop is None else test.crop.cut(batch)
    with torch.no_grad():
        logits = classifier(unit_images(pixels)).double()
    of_own = logits.gather(1, batch.labels[:, None])
    rank = (logits > of_own).sum(1)
    assert lines[-1]["validation_accuracy"] == pytest.approx((rank == 0).double().mean().item())
    expected_loss = (logits.logsumexp(1) - of_own[:, 0]).mean().item()
    assert lines[-1]["validation_loss"] == pytest.approx(expected_loss, rel=1e-3)
    if case.classes > 5:
        assert lines[-1]["validation_top5"] == pytest.approx((rank < 5).double().mean().item())
    else:
        assert "validation_top5" not in lines[-1]


def test_validations_are_as_many_epochs_apart_as_is_asked_for(whole: Any) -> None:
    assert [line["step"] for line in read_metrics(whole("mnist")) if "validation_accuracy" in line] == [4, 8]
    assert [line["step"] for line in read_metrics(whole("cifar10")) if "validation_accuracy" in line] == [8]


def test_the_learning_rate_falls_by_the_decay_of_the_configuration(whole: Any) -> None:
    """MNIST's: 0.7 at each tenth of the run; of 8 steps, step s begins at share (s - 1) / 8."""
    rates = [line["learning_rate"] for line in read_metrics(whole("mnist"))]
    passed = [sum((step / 8) >= tenth / 10 for tenth in range(1, 10)) for step in range(8)]
    assert rates == pytest.approx([0.02 * 0.7**count for count in passed])
    assert passed == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [line["learning_rate"] for line in read_metrics(whole("cifar10"))] == pytest.approx(
        [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    )


@pytest.fixture
def shallow() -> Iterator[None]:
    with shallow_networks():
        yield


@pytest.mark.usefixtures("shallow")
def test_it_learns(data: Path, tmp_path: Path) -> None:
    options = ["--train.epochs=12", "--validation.every_epochs=12", "--optimizer.milestones=[]", *RESNET20]
    options += ["--optimizer.learning_rate=0.05", "--loss.gm.alpha=0.1"]
    assert main(command("mnist", data, tmp_path / "run", *options)) == 0
    assert read_metrics(tmp_path / "run")[-1]["validation_accuracy"] > 0.6


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("loss", ["softmax", "center", "l_softmax", "rce", "cosface", "arcface"])
def test_other_losses_end_in_a_classifier_too(loss: str, data: Path, tmp_path: Path) -> None:
    options = [f"--loss.name={loss}", *RESNET20, "--train.epochs=0.5", "--train.batch_size=8"]
    assert main(command("mnist", data, tmp_path / "run", *options)) == 0
    assert load_classifier(tmp_path / "run").description.loss.name == loss
    assert not (tmp_path / "run" / "geometry.svg").exists()
    assert "validation_accuracy" in read_metrics(tmp_path / "run")[-1]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("epochs", "steps"), [("1.5", 6), ("0.3", 1), ("0.01", 1), ("0.9", 4)])
def test_the_last_epoch_may_be_a_part_of_one(epochs: str, steps: int, data: Path, tmp_path: Path) -> None:
    """Of 4 steps an epoch: rounded, and one at least."""
    options = [f"--train.epochs={epochs}", *RESNET20]
    assert main(command("mnist", data, tmp_path / "run", *options)) == 0
    assert read_metrics(tmp_path / "run")[-1]["step"] == steps
    assert load_classifier(tmp_path / "run").description.side == 28


# ------------------------------------------------------------------------------------------------- to go on


def contents(run: Path) -> dict[str, bytes]:
    """All files but TensorBoard's, of which each call begins one."""
    files = [path for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["mnist", "folder"])
def test_a_run_at_its_end_is_changed_neither_by_the_same_call_nor_by_resume(
    name: str, whole: Any, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole(name), run)
    before = contents(run)
    assert {MODEL_FILE, BEST_FILE, "config.yaml", "metrics.jsonl", "geometry.svg", "environment.json"} <= before.keys()
    for arguments in (command(name, data, run), ["train", "--resume", str(run)]):
        with geometry_drawn():
            assert main(arguments) == 0
        assert contents(run) == before


def test_killed_and_resumed_equals_the_whole(data: Path, whole: Any, tmp_path: Path) -> None:
    """Killed twice after a checkpoint, by SIGKILL; gone on with by the same call, and by `--resume`."""
    every = ["--train.checkpoint_every=1", "--train.keep_checkpoints=3"]
    started = command("cifar10", data, tmp_path / "run", *every)
    assert main(command("cifar10", data, tmp_path / "whole", *every)) == 0
    for steps in (1, 3):
        running = Command(started, tmp_path)
        running.wait_until(lambda steps=steps: newest_step(tmp_path / "run") >= steps)  # type: ignore[misc]
        running.kill()
        running.wait()
    assert newest_step(tmp_path / "run") < CASES["cifar10"].steps, "it had ended before it was killed"
    with geometry_drawn():
        assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    for name in (MODEL_FILE, BEST_FILE, "geometry.svg"):
        assert (tmp_path / "run" / name).read_bytes() == (whole("cifar10") / name).read_bytes()


def test_a_run_begins_with_the_weights_of_a_classifier(
    whole: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects `--init` by an exported classifier: network and class vectors, as a vanishing learning rate leaves."""
    before = whole("cifar10") / MODEL_FILE
    options = [f"--train.init={before}", "--optimizer.learning_rate=1e-30", "--train.epochs=0.1"]
    assert main(command("cifar10", data, tmp_path / "run", *options)) == 0
    found, expected = load_classifier(tmp_path / "run"), load_classifier(before)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name


def test_a_run_does_not_go_on_with_other_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "folder"
    shutil.copytree(data / "folder", folder)
    assert main(command("folder", folder.parent, tmp_path / "run", "--train.epochs=0.5")) == 0
    shutil.copy(folder / "ant" / "0.jpg", folder / "ant" / "new.jpg")
    shutil.copy(folder / "ant" / "0.jpg", folder / "ant" / "newer.jpg")
    assert main(["train", "--resume", str(tmp_path / "run")]) == 1
    assert "the training data was " in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- wrong use


def test_a_run_folder_of_another_kind_is_refused(
    whole: Any, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects a classifier's run from a face network's configuration, and tells what is the matter."""
    run = whole("folder")
    before = contents(run)
    assert main(["train", "--config", "demo.yaml", f"--data.store={small_store}", f"--output={run}"]) == 1
    assert f"{run}: holds a run of another kind; give another --output" in capsys.readouterr().err
    assert contents(run) == before


def test_processes_do_not_download_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[Path] = []

    def fetch(_: str, folder: Path) -> None:
        fetched.append(folder)
        write_mnist(folder, alternating(16, 10), alternating(10, 10))

    monkeypatch.setattr("facegm.classification.download.download", fetch)
    arguments = command("mnist", tmp_path, tmp_path / "run", "--download", *RESNET20, "--train.epochs=1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments) == 2
    assert "--download: all processes would fetch into one folder; download first in" in capsys.readouterr().err
    assert not fetched
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(arguments) == 0
    assert fetched == [(tmp_path / "mnist").resolve()]
