"""Many training runs of one experiment, several at a time, each on one thread; what was interrupted goes on."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from facegm.embedding.model_file import MODEL_FILE


def train_all(runs: Mapping[Path, Sequence[str]], jobs: int) -> dict[Path, str]:
    """Train into each run folder with its options of `facegm train`.

    Args:
        runs: options by run folder; runs that are at their end are not begun again.
        jobs: how many at a time.

    Returns:
        The last line that a run which failed has said, and an empty text for the others.
    """

    def train(run: Path) -> str:
        if (run / MODEL_FILE).is_file():
            return ""
        command = [sys.executable, "-m", "facegm", "train", "--output", str(run), *runs[run]]
        run.parent.mkdir(parents=True, exist_ok=True)
        with run.with_suffix(".log").open("w") as log:
            done = subprocess.run(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        last = (run.with_suffix(".log").read_text().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"{run.name}: {last}", flush=True)
        return last if done.returncode else ""

    with ThreadPoolExecutor(jobs) as threads:
        return dict(zip(runs, threads.map(train, runs), strict=True))
