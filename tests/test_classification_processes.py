"""A shipped configuration of a classifier by two processes: equal to one, in training and in validation."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from image_sets import alternating, write_cifar10

from facegm.classification.classifier import BEST_FILE, MODEL_FILE
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.run_folder import read_metrics

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
TESTED, EVALUATED_AT_ONCE = 27, 4
"""Images: the processes have 15 and 12 of them, the last time 3 and none."""
SCRIPT = f"""
import sys, torch
import facegm.training.report
from facegm.cli import main

torch.set_default_dtype(torch.float64)
facegm.training.report.EVALUATION_BATCH = {EVALUATED_AT_ONCE}
sys.exit(main())
"""
"""Training in double precision: what is left of a difference is then no rounding."""


@pytest.mark.parametrize("loss", ["center", "gm"])
def test_two_processes_equal_one(loss: str, tmp_path: Path, torchrun: Torchrun) -> None:
    """Protects what a step takes from all its images, which processes see in parts.

    Those are the statistics of batch normalisation, how far centers move, the gradient; and how many images of a
    validation are classified right.
    """
    write_cifar10(tmp_path / "data", alternating(40, 10), alternating(TESTED, 10))
    (tmp_path / "exact.py").write_text(SCRIPT)
    options = [
        "--data.folder=data", f"--loss.name={loss}", "--train.sync_batch_norm=true", "--train.precision=float32",
        "--train.batch_size=20", "--train.epochs=2", "--train.log_every=1", "--train.checkpoint_every=100",
        "--validation.every_epochs=1",
    ]  # fmt: skip
    for processes in (1, 2):
        command = ["exact.py", "train", "--config", "cifar10.yaml", *options, f"--output=run-{processes}"]
        done = torchrun(processes, command, tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = tmp_path / "run-1", tmp_path / "run-2"

    expected, found = read_metrics(one), read_metrics(two)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for line, same in zip(found, expected, strict=True):
        assert line.keys() == same.keys()
        assert {"loss", "gradient_norm"} <= line.keys()
        assert ("validation_accuracy" in line) == (line["step"] % 2 == 0)
        for name in line.keys() - {"images_per_second", "peak_memory_gb"}:
            assert line[name] == pytest.approx(same[name], rel=1e-7, abs=1e-9), (line["step"], name)
    assert len({line["loss"] for line in found}) == 4
    states = [load_newest_checkpoint(run) for run in (two, one)]
    assert states[0] is not None
    assert states[1] is not None
    torch.testing.assert_close(states[0]["task"], states[1]["task"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(states[0]["optimizer"], states[1]["optimizer"], rtol=1e-6, atol=1e-8)
    assert {MODEL_FILE, BEST_FILE} <= {path.name for path in two.iterdir()}
