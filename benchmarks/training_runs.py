"""Many training runs of one experiment, several at a time, each on one thread; what was interrupted goes on."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch

from facegm.embedding.model_file import MODEL_FILE


def train_all(runs: Mapping[Path, Sequence[str]], jobs: int) -> dict[Path, str]:
    """Train into each run folder with its options of `facegm train`.

    Args:
        runs: options by run folder; runs that are at their end are not begun again.
        jobs: how many at a time, shared out evenly among the GPUs that are there.

    Returns:
        The last line that a run which failed has said, and an empty text for the others.
    """
    places: SimpleQueue[str] = SimpleQueue()
    for place in places_of_jobs(jobs, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")):
        places.put(place)

    def train(run: Path) -> str:
        if (run / MODEL_FILE).is_file():
            return ""
        command = [sys.executable, "-m", "facegm", "train", "--output", str(run), *runs[run]]
        run.parent.mkdir(parents=True, exist_ok=True)
        place = places.get()
        with run.with_suffix(".log").open("w") as log:
            done = subprocess.run(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": place},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        places.put(place)
        last = (run.with_suffix(".log").read_text().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{run.name}: {last}", flush=True)
        return last if done.returncode else ""

    with ThreadPoolExecutor(jobs) as threads:
        return dict(zip(runs, threads.map(train, runs), strict=True))


def places_of_jobs(jobs: int, devices: int, visible: str | None) -> list[str]:
    """`CUDA_VISIBLE_DEVICES` of each job that runs at a time: the GPUs in turn; empty where there is none.

    Args:
        jobs: how many run at a time.
        devices: GPUs that this process sees.
        visible: the variable's value for this process, which names those; None for all of the machine.
    """
    names = visible.split(",") if visible else [str(number) for number in range(devices)]
    return [names[job % devices] if devices else "" for job in range(jobs)]
