"""Protects that the loop trains what are not faces, and goes on exactly: digits in memory, and photos of any size."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import image_runs
import pytest
import torch
from exact_resume import assert_same_end, kill_again_and_again, log_of, newest_step, start_command
from image_runs import (
    BATCH,
    BEST,
    EPOCHS,
    KINDS,
    STEPS,
    VALIDATED,
    WEIGHTS,
    ForkedRun,
    ImageTask,
    Kind,
    train_images,
)
from safetensors.torch import load_file

from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.loop import Trainer
from facegm.training.run_folder import read_metrics

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
SCRIPT = str(image_runs.__file__)
IN_DOUBLE = {"digits": 4, "photos": 8}
"""Epochs of runs in double precision, with a validation at least."""
STEPS_IN_DOUBLE = {kind: STEPS[kind] * epochs // EPOCHS[kind] for kind, epochs in IN_DOUBLE.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    image_runs.make_photos(folder)
    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def data(kind: Kind, shared_data: Path, photos: Path) -> Path:
    return shared_data / "mnist" if kind == "digits" else photos


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs that several tests look at, each made by the first."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def whole(kind: Kind, data: Path, runs: Path) -> Path:
    """An undisturbed run."""
    if not (runs / kind).exists():
        train_images(kind, data, runs / kind)
    return runs / kind


def assert_same_files(run: Path, expected: Path) -> None:
    assert_same_end(run, expected)
    for name in (WEIGHTS, BEST):
        assert (run / name).read_bytes() == (expected / name).read_bytes()
    assert {path.name for path in run.iterdir()} == {path.name for path in expected.iterdir()}


def validated(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run) if "validation_accuracy" in line]


def test_it_learns_and_exports_what_was_validated(kind: Kind, whole: Path) -> None:
    lines = read_metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, STEPS[kind] + 1))
    assert validated(whole) == VALIDATED[kind]
    assert lines[-1]["validation_accuracy"] > {"digits": 0.8, "photos": 0.9}[kind]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    state, weights = load_newest_checkpoint(whole), load_file(whole / WEIGHTS)
    assert state is not None
    expected = state["task"] if state["average"] is None else state["average"]["task"]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert (state["average"] is None) == (kind == "photos")
    for name, weight in weights.items():  # what is averaged differs from the last; running statistics are the last
        is_last = kind == "photos" or ".running_" in name or "num_batches" in name
        assert torch.equal(weight, state["task"][name]) == is_last, name


class Killed(BaseException): ...


def test_ten_steps_and_the_rest_equal_the_whole_in_the_middle_of_an_epoch(
    kind: Kind, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def die_in_step_13(trainer: Trainer[Any], batch: Any, progress: Any, watch: Any) -> Any:
        if progress.step == 12:
            raise Killed
        return step(trainer, batch, progress, watch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", die_in_step_13)
        with pytest.raises(Killed):
            train_images(kind, data, tmp_path / "run", workers=1)
    state = load_newest_checkpoint(tmp_path / "run")
    assert state is not None
    assert state["position"] == {"epoch": {"digits": 1, "photos": 2}[kind], "steps_in_epoch": 2}
    train_images(kind, data, tmp_path / "run")
    assert_same_files(tmp_path / "run", whole)


def test_a_run_that_died_in_a_validation_does_that_one_and_no_other_again(
    kind: Kind, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, begun, done = ImageTask.evaluate, 0, 0

    def die_in_the_second(task: ImageTask, *args: Any, **options: Any) -> dict[str, float]:
        nonlocal begun, done
        begun += 1
        if begun == 2:
            raise RuntimeError("the machine went down")
        found = evaluate(task, *args, **options)
        done += 1
        return found

    monkeypatch.setattr(ImageTask, "evaluate", die_in_the_second)
    with pytest.raises(RuntimeError, match="the machine went down"):
        train_images(kind, data, tmp_path / "run")
    assert validated(tmp_path / "run") == VALIDATED[kind][:1]
    assert newest_step(tmp_path / "run") == VALIDATED[kind][1]
    train_images(kind, data, tmp_path / "run")
    assert validated(tmp_path / "run") == VALIDATED[kind]
    assert done == len(VALIDATED[kind])
    assert_same_files(tmp_path / "run", whole)


# ------------------------------------------------------------------------------------------------- processes


TrainWith = Callable[[int, Kind, Path], Path]


@pytest.fixture
def train_with(runs: Path, torchrun: Torchrun) -> TrainWith:
    """A run of so many gloo processes in double precision, made by the first test that asks for it."""

    def run(processes: int, kind: Kind, data: Path) -> Path:
        folder = runs / f"{kind}-{processes}"
        if not folder.exists():
            arguments = [SCRIPT, kind, str(data), folder.name, "--float64", f"--epochs={IN_DOUBLE[kind]}"]
            done = torchrun(processes, arguments, runs)
            assert done.returncode == 0, done.stderr
            assert "Warning" not in done.stderr
        return folder

    return run


@pytest.mark.parametrize("processes", [2, 4])
def test_gloo_processes_equal_one(kind: Kind, data: Path, train_with: TrainWith, processes: int) -> None:
    """Protects batch normalisation over all processes, evaluation in parts, and photos that each decodes a part of."""
    alone, together = (train_with(size, kind, data) for size in (1, processes))
    lines, expected_lines = log_of(together), log_of(alone)
    assert len(lines) == len(expected_lines) == STEPS_IN_DOUBLE[kind]
    assert validated(together) == [step for step in VALIDATED[kind] if step <= STEPS_IN_DOUBLE[kind]]
    for line, expected in zip(lines, expected_lines, strict=True):
        assert line == pytest.approx(expected, abs=1e-9)
    weights, expected_weights = load_file(together / WEIGHTS), load_file(alone / WEIGHTS)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-9)
    assert any(weight.dtype == torch.float64 for weight in weights.values())


DYING = """
import os, sys
from pathlib import Path

import torch
from facegm.training.distributed import join_processes

sys.path.insert(0, sys.argv[1])
from image_runs import train_images

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
print(f"after {restarts} restarts")
with join_processes() as processes:
    for number, kind in enumerate(["digits", "photos"]):
        data, epochs = Path(sys.argv[2 + 2 * number]), int(sys.argv[3 + 2 * number])
        dies = processes.rank == 1 and restarts == number
        train_images(kind, data, Path(kind), processes, dies_in=13 if dies else None, epochs=epochs)
"""


@pytest.mark.slow
def test_torchrun_restarts_after_a_process_has_died(
    shared_data: Path, photos: Path, tmp_path: Path, torchrun: Torchrun, train_with: TrainWith
) -> None:
    """One process kills itself in a run of each kind: torchrun's two restarts go on from step 10."""
    (tmp_path / "dying.py").write_text(DYING)
    kinds: dict[Kind, Path] = {"digits": shared_data / "mnist", "photos": photos}
    sets = [str(word) for kind, data in kinds.items() for word in (data, IN_DOUBLE[kind])]
    arguments = ["--max-restarts=2", "dying.py", str(Path(SCRIPT).parent), *sets]
    done = torchrun(2, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after 2 restarts" in done.stdout
    for kind, data in kinds.items():
        assert_same_files(tmp_path / kind, train_with(2, kind, data))


# ------------------------------------------------------------------------------------------------- kills


def seconds_of_steps(kind: Kind, run: Path) -> float:
    return sum(BATCH[kind] / float(line["images_per_second"]) for line in read_metrics(run))


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    kind: Kind, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seconds = seconds_of_steps(kind, whole)
    kill_again_and_again(partial(ForkedRun, kind, data, run, workers=1), run, kills=3, seconds=seconds, seed=3)
    assert_same_files(run, whole)


@pytest.mark.slow
def test_killed_25_times_it_ends_with_the_same_bytes(kind: Kind, data: Path, tmp_path: Path) -> None:
    run, whole, output = (tmp_path / name for name in ("run", "whole", "output"))
    train_images(kind, data, whole, epochs=100)
    command = [sys.executable, SCRIPT, kind, str(data), str(run), "--epochs=100", "--workers=2"]
    seconds = seconds_of_steps(kind, whole)
    kill_again_and_again(partial(start_command, command, output), run, kills=25, seconds=seconds, seed=25)
    assert_same_files(run, whole)
