"""Protects the choice whether a network is compiled, and that a compiled one learns the same."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from facegm.data.preprocessing import Preprocessing
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.models.face_network import FaceModelConfig, build_face_network
from facegm.training.compilation import WORTH_IT, Compilation, compile_network
from facegm.training.config import TrainConfig, to_yaml
from facegm.training.run_folder import read_metrics

SMALL = FaceModelConfig(width=0.1, embedding_dim=16)


@pytest.mark.parametrize(
    ("asked", "steps", "compiler", "compiled"),
    [
        (False, WORTH_IT["cpu"], "sh", False),
        ("auto", WORTH_IT["cpu"] - 1, "sh", False),
        ("auto", WORTH_IT["cpu"], "sh", True),
        ("auto", WORTH_IT["cpu"], "no-such-compiler", False),
        (True, 1, "sh", True),
    ],
)
def test_it_is_compiled_where_asked_or_where_it_pays(
    asked: Compilation,
    steps: int,
    compiler: str,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", compiler)  # anything that is there
    network = build_face_network(SMALL, 48)
    with caplog.at_level(logging.INFO):
        compile_network(network, asked, steps, say=True)
    assert (network._compiled_call_impl is not None) is compiled
    assert ("needs the compiler no-such-compiler" in caplog.text) is (compiler == "no-such-compiler")


def test_without_a_compiler_what_is_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        FacegmError, match=r"needs the compiler no-such-compiler; install it, or set train\.compile=false"
    ):
        compile_network(build_face_network(SMALL, 48), True, 1, say=True)


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_goes_on_exactly(small_store: Path, tmp_path: Path) -> None:
    """Protects the loss curve against the one without compilation, and exact resume of a compiled run."""
    config = FaceRunConfig(
        data=FaceDataConfig(store=small_store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=SMALL,
        train=TrainConfig(epochs=10, batch_size=24, log_every=1, checkpoint_every=10, precision="float32"),
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))

    def losses(run: str, compiled: str) -> list[float]:
        # In a process of its own: the checks of shapes in this one's code cannot be compiled.
        train = [sys.executable, "-m", "facegm", "train", "--config", "config.yaml", "--output", run]
        done = subprocess.run([*train, f"--train.compile={compiled}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line["loss"] for line in read_metrics(tmp_path / run)]

    compiled = losses("compiled", "true")
    assert compiled == pytest.approx(losses("plain", "false"), rel=1e-3)
    (tmp_path / "compiled" / "checkpoints" / "step-00000020.pt").unlink()
    assert losses("compiled", "true") == compiled
