"""`facegm overfit`: what works learns its batch, and what cannot says why."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegm.checkup.overfit import FACES_EACH, IDENTITIES, STEPS, Observation, diagnose, overfit
from facegm.cli import main
from facegm.config import parse_config
from facegm.faces.config import FaceRunConfig
from facegm.faces.samples import few_faces


@pytest.fixture
def config(small_store: Path, tmp_path: Path) -> Path:
    """A tiny network on the small store, in float32 so that all machines compute alike."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"data: {{store: {small_store}}}\n"
        "preprocessing: {face_size: 56, crop_size: 48}\n"
        "model: {width: 0.1, embedding_dim: 16}\n"
        "optimizer: {warmup_fraction: 0.1}\n"
        "train: {precision: float32, batch_size: 1000, accumulate: 200}\n"
    )
    return path


@pytest.fixture(autouse=True)
def few_faces_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many as the command takes: what takes time here are passes over them."""
    monkeypatch.setattr("facegm.checkup.overfit.FACES_EACH", 4)


@pytest.mark.parametrize("loss", ["gm", "softmax", "center", "l_softmax", "rce", "cosface", "arcface"])
def test_each_loss_learns_the_batch(loss: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the way from pixels to a prediction without error, by the network in evaluation mode, for each loss."""
    assert main(["overfit", "--config", str(config), f"--loss.name={loss}"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert all("error   0.0%" in line for line in lines[-3:])
    assert "error   0.0%" not in lines[0]
    assert int(lines[-1].split()[1]) < STEPS
    assert last == f"zero error after {lines[-1].split()[1]} steps: network, loss and optimiser work"
    assert len({line.index("lr") for line in lines}) == 1, "the columns are aligned"


@pytest.mark.parametrize("network", ["iresnet50", "mobilefacenet", pytest.param("iresnet100", marks=pytest.mark.slow)])
def test_each_network_learns_the_batch(network: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects evaluation by running statistics, which have to come near those of the batch in so few steps."""
    assert main(["overfit", "--config", str(config), f"--model.name={network}"]) == 0
    assert "zero error after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--optimizer.learning_rate=1e-12"], "the loss does not move; raise optimizer.learning_rate (now 1e-12)"),
        (["--optimizer.learning_rate=1e30", "--optimizer.clip_gradient=.inf"], "not finite at step 2 (loss nan"),
        (["--data.store=nowhere"], "nowhere: not a store of aligned faces; make one by"),
        (["--loss.gm.implementation=fused"], "loss.gm: implementation: fused, but"),
    ],
)
def test_a_run_that_cannot_learn_says_what_to_do(
    settings: list[str],
    message: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Protects the advice: a failure is exit code 1 and one line that names what was seen and which key to change."""
    monkeypatch.setattr("facegm.checkup.overfit.STEPS", 30)
    monkeypatch.setattr("facegm.losses.fused.obstacle", lambda _: "there is no GPU")
    assert main(["overfit", "--config", str(config), *settings]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_batch_is_taken_whole(config: Path) -> None:
    """Protects the loss shown, a mean over the faces, from the parts that a run cuts its larger batches into."""
    assert next(overfit(parse_config(config, FaceRunConfig))).loss == pytest.approx(math.log(6), abs=0.2)


def test_the_batch_takes_identities_that_have_enough_faces() -> None:
    """Protects the choice of faces: eight of each of eight identities, poorer ones only where there is no other."""
    rich = np.repeat(np.arange(12), [2, 9, 9, 9, 9, 1, 9, 9, 9, 9, 8, 8])
    assert Counter(rich[few_faces(rich, identities=IDENTITIES, each=FACES_EACH)].tolist()) == dict.fromkeys(
        [1, 2, 3, 4, 6, 7, 8, 9], 8
    )
    poor = np.array([1, 0, 1, 2, 1])
    assert sorted(few_faces(poor, identities=IDENTITIES, each=FACES_EACH).tolist()) == [0, 1, 2, 3, 4]


def checks(losses: list[float], *, gradient: float = 0.5, error: float = 0.5) -> list[Observation]:
    common: dict[str, Any] = {"error": error, "learning_rate": 0.1}
    seen = [
        Observation(step=5 * i + 1, loss=loss, classification=loss, gradient_norm=0.5, **common)
        for i, loss in enumerate(losses)
    ]
    return [*seen[:-1], seen[-1]._replace(gradient_norm=gradient)]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (checks([2.5, 2.08, 2.0795, 2.0794], gradient=1e-3), "stuck at log(8) = 2.079"),
        (checks([2.5, 2.08, 2.0795, 2.0794]), "does not move"),  # at log K, but its gradient is as large as ever
        (checks([3.0, 3.0, 3.0, 3.0], gradient=1e-3), "does not move"),
        (checks([2.0, 1.0, 0.5, 0.4], error=0.05), "Look at b.jpg"),
        (checks([2.0, 3.0, 5.0, 4.0]), "the loss rises, from 2 to 4; lower optimizer.learning_rate (now 0.1)"),
        (checks([2.0, 1.9, 1.8, 1.7]), "falls, from 2 to 1.7, but slowly; raise optimizer.learning_rate (now 0.1)"),
    ],
)
def test_what_was_seen_decides_the_advice(history: list[Observation], message: str) -> None:
    """Protects the diagnosis: each course of a loss has its own cause."""
    assert message in diagnose(history, 8, ["b.jpg"])
