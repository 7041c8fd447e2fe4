"""Protects exact resume: whatever ends a run early, the next one ends with the weights of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import load_embedder
from facegm.errors import StoppedError
from facegm.models.face_resnet import FaceResNetConfig
from facegm.training import face_setup, loop, state
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint
from facegm.training.config import DataConfig, OptimizerConfig, RunConfig, TrainConfig
from facegm.training.run import train_run
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("one_thread")


def everything_on(store: Path, *, epochs: int = 5, **train: Any) -> RunConfig:
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
    return RunConfig(
        data=DataConfig(store=store, jitter=0.2, balanced=True),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceResNetConfig(width=0.1, embedding_dim=16, dropout=0.2),
        optimizer=OptimizerConfig(warmup_fraction=0.1, schedule="cosine"),
        train=TrainConfig(epochs=epochs, **(course | train)),
    )


def assert_same_end(run: Path, expected: Path) -> None:
    """Weights, optimiser, loss scale and average in the last checkpoint, the exported weights, and the log's losses."""
    assert_equal(load_newest_checkpoint(run), load_newest_checkpoint(expected))
    exported, expected_weights = (load_embedder(folder / "embedder.safetensors")[0] for folder in (run, expected))
    assert_equal(exported.state_dict(), expected_weights.state_dict())
    assert [line["loss"] for line in read_metrics(run)] == [line["loss"] for line in read_metrics(expected)]


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(everything_on(small_store), folder)
    return folder


def test_ten_steps_and_ten_equal_twenty_in_the_middle_of_an_epoch(
    small_store: Path, whole: Path, tmp_path: Path
) -> None:
    end = load_newest_checkpoint(whole)
    assert end is not None
    assert end["scaler"]["_growth_tracker"] > 0
    assert end["average"]["steps"] == 20
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for path in checkpoints(folder)[2:]:
        path.unlink()
    (folder / "embedder.safetensors").unlink()
    half = load_newest_checkpoint(folder)
    assert half is not None
    assert half["position"] == {"epoch": 2, "steps_in_epoch": 2}
    train_run(everything_on(small_store), folder)
    assert_same_end(folder, whole)


def test_the_exported_network_is_the_average(whole: Path) -> None:
    end = load_newest_checkpoint(whole)
    assert end is not None
    exported = load_embedder(whole / "embedder.safetensors")[0].state_dict()
    average = end["average"]["network"]
    assert_equal(exported, average)
    last = {key.removeprefix("network."): value for key, value in end["task"].items() if key.startswith("network.")}
    assert any(not torch.equal(average[key], last[key]) for key in last)


def test_the_average_is_that_of_all_steps_weights(small_store: Path, tmp_path: Path) -> None:
    train_run(everything_on(small_store, epochs=2, checkpoint_every=1, precision="float32"), tmp_path)
    expected = None
    for path in checkpoints(tmp_path):
        at_step = torch.load(path, weights_only=True)
        weight = at_step["task"]["network.embedding.weight"].double()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
        torch.testing.assert_close(
            at_step["average"]["network"]["embedding.weight"].double(), expected, atol=1e-7, rtol=1e-5
        )


class Killed(BaseException): ...


@pytest.mark.parametrize(
    ("owner", "name"),
    [(RunConfig, "to_yaml"), (state, "save_checkpoint"), (face_setup, "save_embedder")],
    ids=["run folder", "checkpoint", "export"],
)
def test_interrupted_at_any_stage_the_same_call_goes_on(
    small_store: Path, whole: Path, tmp_path: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        with pytest.raises(Killed):
            train_run(everything_on(small_store), tmp_path / "run")
    train_run(everything_on(small_store), tmp_path / "run")
    assert_same_end(tmp_path / "run", whole)


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
        with pytest.raises(StoppedError, match="stopped by SIGTERM after step 8 of 20, with a checkpoint"):
            train_run(everything_on(small_store), folder)
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(folder)[-1].name == "step-00000008.pt"
    train_run(everything_on(small_store), folder)
    assert_same_end(folder, whole)


@pytest.mark.parametrize(("begun", "gone_on"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_goes_on_in_another_precision(small_store: Path, tmp_path: Path, begun: str, gone_on: str) -> None:
    """Protects a run that moves to other hardware, where `auto` is another precision."""
    train_run(everything_on(small_store, precision=begun), tmp_path)
    checkpoints(tmp_path)[-1].unlink()
    train_run(everything_on(small_store, precision=gone_on), tmp_path)
    assert checkpoints(tmp_path)[-1].name == "step-00000020.pt"


# ------------------------------------------------------------------------------------------------- processes


def start(config: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "facegm", "train", "--config", str(config), "--output", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=config.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(config: Path, run: Path) -> str:
    running = start(config, run)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_by_a_signal_to_its_group_and_goes_on_when_given_again(
    small_store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Protects what a terminal, torchrun or a service manager does: the processes that decode get the signal too."""
    config = tmp_path / "config.yaml"
    streamed = everything_on(small_store, epochs=25, checkpoint_every=100)
    streamed = replace(streamed, data=replace(streamed.data, residency="stream", workers=2))
    config.write_text(streamed.to_yaml())
    running = start(config, tmp_path / "run")
    while running.poll() is None and len(read_metrics(tmp_path / "run")) < 3:
        time.sleep(0.01)
    os.killpg(running.pid, number)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert f"stopped by {number.name} after step" in output
    assert "Traceback" not in output
    stopped_at = read_metrics(tmp_path / "run")[-1]["step"]
    output = finish(config, tmp_path / "run")
    assert f"steps {stopped_at} to 100" in output
    finish(config, tmp_path / "whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def kill_again_and_again(store: Path, folder: Path, kills: int, seed: int) -> None:
    config = folder / "config.yaml"
    config.write_text(everything_on(store, epochs=max(30, 6 * kills), checkpoint_every=7, keep_checkpoints=2).to_yaml())
    begin = time.monotonic()
    finish(config, folder / "whole")
    seconds = time.monotonic() - begin
    steps_seconds = sum(12 / line["images_per_second"] for line in read_metrics(folder / "whole"))
    rng, step, late = random.Random(seed), 0, 0
    for kill in range(kills):
        running = start(config, folder / "run")
        if kill % 2:  # at any moment, the start included
            wait(running, rng.uniform(0.2, 1) * (seconds - steps_seconds) + rng.uniform(0, 1) * steps_seconds / kills)
        else:  # while steps are taken
            while running.poll() is None and newest_step(folder / "run") <= step:
                time.sleep(0.005)
            wait(running, rng.uniform(0, 0.5) * steps_seconds / kills)
        late += running.poll() is None
        running.kill()
        running.communicate()
        assert newest_step(folder / "run") >= step, "a checkpoint was lost"
        step = newest_step(folder / "run")
    assert late >= kills // 2, "most runs had ended before they were killed"
    finish(config, folder / "run")
    assert_same_end(folder / "run", folder / "whole")
    assert {path.name for path in (folder / "run").iterdir()} == {path.name for path in (folder / "whole").iterdir()}


def newest_step(run: Path) -> int:
    found = checkpoints(run)
    return int(found[-1].stem.removeprefix("step-")) if found else 0


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def test_killed_again_and_again_it_ends_with_the_same_weights(small_store: Path, tmp_path: Path) -> None:
    kill_again_and_again(small_store, tmp_path, kills=3, seed=1)


@pytest.mark.slow
def test_killed_25_times_it_ends_with_the_same_weights(small_store: Path, tmp_path: Path) -> None:
    kill_again_and_again(small_store, tmp_path, kills=25, seed=25)


def test_torchrun_restarts_after_a_process_has_died(small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    script = """
import os, signal, sys
from facegm.cli import main
from facegm.training.optimization import Optimization

step, steps = Optimization.step, 0

def die_at_the_twelfth_step(self):
    global steps
    steps += 1
    if steps == 12 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    step(self)

Optimization.step = die_at_the_twelfth_step
sys.exit(main())
"""
    (tmp_path / "dying.py").write_text(script)
    config = everything_on(small_store)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    arguments = ["train", "--config", "config.yaml", "--output"]
    done = torchrun(2, ["--max-restarts=2", "dying.py", *arguments, "run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 10 to 20" in done.stdout
    undisturbed = torchrun(2, ["-m", "facegm", *arguments, "whole"], tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_end(tmp_path / "run", tmp_path / "whole")
