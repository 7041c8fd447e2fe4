"""What tests of exact resume share: runs that are killed, and the comparison of what runs have left."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from facegm.training.checkpoint import checkpoints, load_newest_checkpoint
from facegm.training.run_folder import read_metrics

MEASURED = {"images_per_second", "peak_memory_gb"}
"""Numbers of a line of the log that no two runs have in common."""


def assert_equal(a: Any, b: Any) -> None:
    """Bit for bit, through dictionaries and sequences of tensors and plain values."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


def assert_same_end(run: Path, expected: Path) -> None:
    """The last checkpoint, with weights, optimiser, loss scale and average, and every line of the log."""
    state, expected_state = ({**(load_newest_checkpoint(folder) or {})} for folder in (run, expected))
    assert state, f"{run} has no checkpoint"
    for each in (state, expected_state):
        each["numbers"] = unmeasured(each["numbers"])
    assert_equal(state, expected_state)
    assert log_of(run) == log_of(expected)


def log_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what is measured."""
    return [unmeasured(line) for line in read_metrics(run)]


def unmeasured(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in MEASURED}


def newest_step(run: Path) -> int:
    """Steps that a run that is killed now does not lose."""
    found = checkpoints(run)
    return int(found[-1].stem.removeprefix("step-")) if found else 0


class Running(Protocol):
    """A process, as far as it is killed here; `subprocess.Popen` is one."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> int | None: ...


def start_command(command: Sequence[str], output: Path) -> Running:
    """Start a command in a session of its own; what it says goes to a file, which is never full as a pipe may be."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with output.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def kill_again_and_again(start: Callable[[], Running], run: Path, *, kills: int, seconds: float, seed: int) -> None:
    """Kill by SIGKILL, again and again, what trains in a run folder; at last let it come to its end.

    Args:
        start: begins to train there, or goes on.
        run: the run folder.
        kills: how many; every other one comes at any moment, the start included, the rest while steps are taken.
        seconds: that all steps of the run take together.
        seed: of the moments.
    """
    rng, step, late, start_takes = random.Random(seed), 0, 0, 0.0
    for kill in range(kills):
        began, running = time.monotonic(), start()
        if kill % 2:
            _wait(running, rng.uniform(0.2, 1) * start_takes + rng.uniform(0, 1) * seconds / kills)
        else:
            _wait(running, 120, until=partial(_is_beyond, run, step))
            start_takes = start_takes or time.monotonic() - began
            _wait(running, rng.uniform(0, 0.5) * seconds / kills)
        late += running.poll() is None
        running.kill()
        running.wait(60)
        assert newest_step(run) >= step, "a checkpoint was lost"
        step = newest_step(run)
    assert late > kills // 2, "most runs had ended before they were killed"
    assert start().wait(300) == 0


def _is_beyond(run: Path, step: int) -> bool:
    return newest_step(run) > step


def _wait(process: Running, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Until so many seconds have passed, or what is waited for has come, or the process has ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not until():
        time.sleep(0.005)
