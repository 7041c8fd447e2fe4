"""Training by several processes: equal to one, with shared means or without, and one message where they differ."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face_runs import small_config

from facegm.embedding.model_file import read_likelihood
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import train_run
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import OptimizerConfig, to_yaml
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]


def run_config(store: Path, loss: LossConfig, *, epochs: int) -> FaceRunConfig:
    """Two steps an epoch."""
    config = small_config(store, epochs=epochs, checkpoint_every=10)
    return replace(config, optimizer=OptimizerConfig(warmup_fraction=0.1), loss=loss)


@contextmanager
def float64() -> Iterator[None]:
    """Training in double precision: what is left of a difference is then no rounding.

    In single precision it may be. A tie in a maximum over pixels that falls otherwise, in one sample at one step, moves
    the loss by 1e-5 at once, and some steps later by 1e-3; where that happens depends on the processor.
    """
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def float64_script(folder: Path) -> str:
    """What trains so under torchrun."""
    (folder / "float64.py").write_text(
        "import sys, torch\nfrom facegm.cli import main\ntorch.set_default_dtype(torch.float64)\nsys.exit(main())\n"
    )
    return "float64.py"


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def gm_config(store: Path, *, shard_means: bool) -> FaceRunConfig:
    """16 steps."""
    return run_config(store, LossConfig(gm=GMLossConfig(shard_means=shard_means)), epochs=8)


@pytest.fixture(scope="module")
def exact_run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that has all means, in double precision."""
    folder = tmp_path_factory.mktemp("runs") / "exact"
    with float64():
        train_run(gm_config(small_store, shard_means=False), folder)
    return folder


@pytest.mark.parametrize("processes", [2, 4])
def test_gloo_processes_equal_one(
    exact_run: Path, small_store: Path, tmp_path: Path, torchrun: Torchrun, processes: int
) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(gm_config(small_store, shard_means=False)))
    script = [float64_script(tmp_path), "train", "--config", "config.yaml", "--output", "run"]
    done = torchrun(processes, script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(losses(exact_run)) == 16
    assert losses(tmp_path / "run") == pytest.approx(losses(exact_run), abs=1e-9)


@pytest.fixture(scope="module")
def sharded_run(small_store: Path, tmp_path_factory: pytest.TempPathFactory, torchrun: Torchrun) -> Path:
    """One run of four processes that share the means of six identities: two, one, two and one."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "config.yaml").write_text(to_yaml(gm_config(small_store, shard_means=True)))
    done = torchrun(4, [float64_script(folder), "train", "--config", "config.yaml", "--output", "run"], folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_processes_that_share_the_means_equal_one_that_has_all(exact_run: Path, sharded_run: Path) -> None:
    assert losses(sharded_run) == pytest.approx(losses(exact_run), abs=1e-9)
    for name in ("mean_distance", "own_distance", "posterior", "gradient_norm"):
        found, expected = ([line[name] for line in read_metrics(folder)] for folder in (sharded_run, exact_run))
        assert found == pytest.approx(expected, rel=1e-9)
    state, expected_state = load_newest_checkpoint(sharded_run), load_newest_checkpoint(exact_run)
    assert state is not None
    assert expected_state is not None
    torch.testing.assert_close(state["task"], expected_state["task"], rtol=1e-9, atol=1e-9)
    carried = read_likelihood(sharded_run / "embedder.safetensors")
    assert carried is not None
    np.testing.assert_allclose(carried.means, expected_state["task"]["loss.means"].numpy(), rtol=1e-6)
    torch.testing.assert_close(state["optimizer"], expected_state["optimizer"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_checkpoint_of_four_processes_resumes_on_other_numbers(
    exact_run: Path, sharded_run: Path, tmp_path: Path, torchrun: Torchrun, processes: int
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(sharded_run, folder)
    (folder / "checkpoints" / "step-00000016.pt").unlink()
    done = torchrun(processes, [float64_script(tmp_path), "train", "--resume", "resumed"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 10 to 16" in done.stdout
    assert losses(folder) == pytest.approx(losses(exact_run), abs=1e-9)


def test_centers_are_the_same_on_two_processes_as_on_one(small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    """Protects what moves without a gradient, and biases and centers of classes that are split."""
    config = run_config(small_store, LossConfig(name="center"), epochs=6)
    with float64():
        train_run(config, tmp_path / "one")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for is_split in ("false", "true"):
        options = ["--config", "config.yaml", f"--loss.center.shard_means={is_split}", "--output", is_split]
        done = torchrun(2, [float64_script(tmp_path), "train", *options], tmp_path)
        assert done.returncode == 0, done.stderr
        assert losses(tmp_path / is_split) == pytest.approx(losses(tmp_path / "one"), abs=1e-9)
        state, expected = load_newest_checkpoint(tmp_path / is_split), load_newest_checkpoint(tmp_path / "one")
        assert state is not None
        assert expected is not None
        torch.testing.assert_close(state["task"], expected["task"], rtol=1e-9, atol=1e-9)


def test_ranks_with_other_data_stop_with_one_message(small_store: Path, tmp_path: Path, torchrun: Torchrun) -> None:
    script = """
import os
from pathlib import Path
from facegm.config import parse_config
from facegm.embedding.model_file import read_likelihood
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import train_run

seed = os.environ["RANK"]
train_run(parse_config(Path("config.yaml"), FaceRunConfig, [f"--train.seed={seed}"]), Path("run"))
"""
    (tmp_path / "config.yaml").write_text(to_yaml(small_config(small_store)))
    (tmp_path / "unequal.py").write_text(script)
    done = torchrun(2, ["unequal.py"], tmp_path)
    assert done.returncode != 0
    assert "the processes of this run differ in data or configuration" in done.stderr
    assert not (tmp_path / "run").exists()
