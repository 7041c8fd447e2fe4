"""Protects the way that users take: cells in processes that are started anew, which end when their command is gone."""

import csv
import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_grids import FORKED, PAGELESS
from facegm_commands import Command
from image_sets import alternating, write_mnist

from facegm.reproduce.cells import RESULT_FILE
from facegm.training.checkpoint import FOLDER
from facegm.training.run_folder import METRICS_FILE

CONFIG = """
task: classification
data: {set: mnist, folder: digits, padding: 1}
model: {name: resnet20}
optimizer: {learning_rate: 0.02, clip_gradient: 5}
train: {epochs: 25, batch_size: 8, precision: float32, compile: false, checkpoint_every: 100000, log_every: 1}
validation: {every_epochs: 25}
"""
STEPS = 25 * 4
TITLES = ("L-Softmax, C100+, seed 0", "softmax, C100+, seed 0")


ARGUMENTS = ["reproduce", "table3", "--config=small.yaml", "--output=out", "--jobs=2"]
ARGUMENTS += ["--filter=softmax", "--filter=C100+", "--filter=seed 0"]
"""Two cells side by side."""


def wait_until(is_reached: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_locked(file: Path) -> bool:
    """Whether a process has it; the lock ends with the process, if not before."""
    with file.open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def steps(run: Path) -> list[int]:
    text = (run / METRICS_FILE).read_text() if (run / METRICS_FILE).is_file() else ""
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
def test_cells_of_a_command_that_is_killed_end_by_themselves_and_are_gone_on_with(tmp_path: Path) -> None:
    write_mnist(tmp_path / "digits", alternating(32, 10), alternating(20, 10))
    (tmp_path / "small.yaml").write_text(CONFIG)
    cells = tmp_path / "out" / "cells"

    def runs() -> list[Path]:
        return sorted(path for path in cells.iterdir() if path.is_dir()) if cells.is_dir() else []

    quiet = subprocess.DEVNULL
    begun_anew = [sys.executable, "-m", "facegm", *ARGUMENTS]
    with subprocess.Popen(begun_anew, cwd=tmp_path, stdout=quiet, stderr=quiet) as killed:
        wait_until(lambda: len(runs()) == 2 and all(len(steps(run)) >= 3 for run in runs()), 120)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    wait_until(lambda: not any(is_locked(cells / f"{run.name}.lock") for run in runs()), 15)

    before: dict[str, bytes] = {}
    for run in runs():
        assert not (run / RESULT_FILE).exists()
        (checkpoint,) = (run / FOLDER).glob("step-*.pt")
        assert 3 <= steps(run)[-1] == int(checkpoint.stem.removeprefix("step-")) < STEPS
        assert "stopped by SIGTERM" in (cells / f"{run.name}.log").read_text()
        before[run.name] = (run / METRICS_FILE).read_bytes()

    last = Command(ARGUMENTS, tmp_path, code=FORKED + PAGELESS)
    assert last.wait(200) == 0, last.output
    begun = dict(re.findall(r"^begins  (\w+)  (.*)$", last.output, re.MULTILINE))
    assert begun.keys() == before.keys()
    assert sorted(begun.values()) == list(TITLES)
    for name, text in before.items():
        assert (cells / name / METRICS_FILE).read_bytes().startswith(text), "steps were done again"
        assert steps(cells / name) == list(range(1, STEPS + 1))
        assert (cells / name / RESULT_FILE).is_file()
    rows = csv.DictReader((tmp_path / "out" / "table3-small.csv").read_text().splitlines())
    assert {f"{row['row']}, {row['column']}, seed {row['seed']}": row["cell"] for row in rows} == {
        title: name for name, title in begun.items()
    }
