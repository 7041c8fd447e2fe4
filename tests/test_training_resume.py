"""Protects exact resume: whatever ends a run early, the next one ends with the weights of an undisturbed run."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_resume import assert_equal, assert_same_end, kill_again_and_again, newest_step
from facegm_commands import Command

from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import load_embedder
from facegm.errors import StoppedError
from facegm.faces import run as face_run
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.models.face_network import FaceModelConfig
from facegm.training import checkpoint, log, loop, run_folder
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig, to_yaml
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("one_thread")


def everything_on(store: Path, *, epochs: float = 3.0, **train: Any) -> FaceRunConfig:
    """All that has a state or draws random numbers: 4 steps an epoch, each of two parts, in scaled float16."""
    course: dict[str, Any] = {
        "batch_size": 12,
        "accumulate": 2,
        "precision": "float16",
        "ema_decay": 0.9,
        "log_every": 1,
        "checkpoint_every": 5,
        "keep_checkpoints": 99,
    }
    return FaceRunConfig(
        data=FaceDataConfig(store=store, jitter=0.2, balanced=True),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16, dropout=0.2),
        optimizer=OptimizerConfig(warmup_fraction=0.1, schedule="cosine"),
        train=TrainConfig(epochs=epochs, **(course | train)),
    )


def assert_same_run(run: Path, expected: Path) -> None:
    """Checkpoint and log, and the exported weights."""
    assert_same_end(run, expected)
    assert_equal(exported(run), exported(expected))


def exported(run: Path) -> dict[str, torch.Tensor]:
    return load_embedder(run / "embedder.safetensors")[0].state_dict()


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 12 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(everything_on(small_store), folder)
    return folder


def test_ten_steps_and_two_equal_twelve_in_the_middle_of_an_epoch(
    small_store: Path, whole: Path, tmp_path: Path
) -> None:
    end = load_newest_checkpoint(whole)
    assert end is not None
    assert end["scaler"]["_growth_tracker"] > 0
    assert end["average"]["has_begun"]
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for path in checkpoints(folder)[2:]:
        path.unlink()
    (folder / "embedder.safetensors").unlink()
    half = load_newest_checkpoint(folder)
    assert half is not None
    assert half["position"] == {"epoch": 2, "steps_in_epoch": 2}
    train_run(everything_on(small_store), folder)
    assert_same_run(folder, whole)


def test_the_exported_network_is_the_average(whole: Path) -> None:
    end = load_newest_checkpoint(whole)
    assert end is not None
    average, last = (
        {name.removeprefix("network."): value for name, value in task.items() if name.startswith("network.")}
        for task in (end["average"]["task"], end["task"])
    )
    assert_equal(exported(whole), average)
    assert any(not torch.equal(average[key], last[key]) for key in last)


def test_the_average_is_that_of_all_steps_weights(small_store: Path, tmp_path: Path) -> None:
    train_run(everything_on(small_store, epochs=2, checkpoint_every=1, precision="float32"), tmp_path)
    expected: dict[str, torch.Tensor] = {}
    for path in checkpoints(tmp_path):
        at_step = torch.load(path, weights_only=True)
        for name in ("network.embedding.weight", "loss.means"):
            weight = at_step["task"][name].double()
            expected[name] = 0.9 * expected[name] + 0.1 * weight if name in expected else weight
            average = at_step["average"]["task"][name].double()
            torch.testing.assert_close(average, expected[name], atol=1e-6, rtol=1e-5)


class Killed(BaseException): ...


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (run_folder, "replace_atomically", 2),
        (checkpoint, "save_checkpoint", 2),
        (log, "append_metrics", 5),
        (face_run, "save_embedder", 1),
    ],
    ids=["run folder", "checkpoint", "log after a checkpoint", "export"],
)
def test_interrupted_at_any_stage_the_same_call_goes_on(
    small_store: Path, whole: Path, tmp_path: Path, owner: Any, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, do = 0, getattr(owner, name)

    def do_or_die(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return do(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, do_or_die)
        with pytest.raises(Killed):
            train_run(everything_on(small_store), tmp_path / "run")
    train_run(everything_on(small_store), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    small_store: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = loop._step_seed

    def signal_at_step_7(seed: int, step: int, rank: int) -> int:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return seeds(seed, step, rank)

    folder, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step_seed", signal_at_step_7)
        with pytest.raises(StoppedError, match="stopped by SIGTERM after step 7 of 12, with a checkpoint"):
            train_run(everything_on(small_store), folder)
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(folder)[-1].name == "step-00000007.pt"
    train_run(everything_on(small_store), folder)
    assert_same_run(folder, whole)


@pytest.mark.parametrize(("begun", "gone_on"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_goes_on_in_another_precision(small_store: Path, tmp_path: Path, begun: str, gone_on: str) -> None:
    """Protects a run that moves to other hardware, where `auto` is another precision."""
    train_run(everything_on(small_store, precision=begun), tmp_path)
    checkpoints(tmp_path)[-1].unlink()
    train_run(everything_on(small_store, precision=gone_on), tmp_path)
    assert checkpoints(tmp_path)[-1].name == "step-00000012.pt"


# ------------------------------------------------------------------------------------------------- processes


def start(config: Path, run: Path) -> Command:
    return Command(["train", "--config", str(config), "--output", str(run)], config.parent, name=f"{run.name}.txt")


def finish(config: Path, run: Path) -> str:
    command = start(config, run)
    assert command.wait(300) == 0, command.output
    return command.output


def test_signals_to_the_group_of_a_command_stop_it_and_it_goes_on_when_given_again(
    small_store: Path, tmp_path: Path
) -> None:
    """Protects what a terminal, torchrun or a service manager does: the processes that decode get the signal too."""
    config = everything_on(small_store, epochs=5.0, precision="float32", checkpoint_every=100)
    config = replace(config, data=replace(config.data, residency="stream", workers=2))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    train_run(config, tmp_path / "whole")
    run, steps = tmp_path / "run", 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        running = start(tmp_path / "config.yaml", run)
        running.wait_until(lambda: len(read_metrics(run)) > steps + 1)  # noqa: B023 - called at once
        running.signal_group(number)
        assert running.wait() == 130, running.output
        steps = read_metrics(run)[-1]["step"]
        assert newest_step(run) == steps
        assert f"stopped by {number.name} after step {steps} of 20, with a checkpoint" in running.output
    output = finish(tmp_path / "config.yaml", run)
    assert f"steps {steps} to 20" in output
    assert "Traceback" not in output
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_weights(small_store: Path, tmp_path: Path) -> None:
    config, kills = tmp_path / "config.yaml", 25
    config.write_text(to_yaml(everything_on(small_store, epochs=6 * kills, checkpoint_every=7, keep_checkpoints=2)))
    finish(config, tmp_path / "whole")
    seconds = sum(12 / line["images_per_second"] for line in read_metrics(tmp_path / "whole"))
    run = tmp_path / "run"
    kill_again_and_again(lambda: start(config, run), run, kills=kills, seconds=seconds, seed=kills)
    assert_same_run(run, tmp_path / "whole")
    assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize("by", ["hand", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_restarted_after_a_process_has_died_it_ends_with_the_same_weights(
    small_store: Path, tmp_path: Path, torchrun: Torchrun, by: str
) -> None:
    """By the same command, given again by torchrun itself or by hand."""
    script = """
import os, signal, sys
from facegm.cli import main
from facegm.training.loop import Trainer

step = Trainer.step

def die_at_the_twelfth_step(self, batch, progress, watch):
    if progress.step == 11 and os.environ["RANK"] == "1" and not os.path.exists("died"):
        open("died", "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, progress, watch)

Trainer.step = die_at_the_twelfth_step
sys.exit(main())
"""
    (tmp_path / "dying.py").write_text(script)
    config = everything_on(small_store)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    arguments = ["train", "--config", "config.yaml", "--output"]
    dying = ["dying.py", *arguments, "run"]
    if by == "hand":
        assert torchrun(2, dying, tmp_path).returncode == -signal.SIGKILL
    done = torchrun(2, dying if by == "hand" else ["--max-restarts=2", *dying], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 10 to 12" in done.stdout
    undisturbed = torchrun(2, ["-m", "facegm", *arguments, "whole"], tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_run(tmp_path / "run", tmp_path / "whole")
