"""The run folder: what was asked for, with which software, and what came out."""

import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError

CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE = "config.yaml", "environment.json", "metrics.jsonl"
_PACKAGES = ("facegm", "torch", "torchvision", "facenet-pytorch", "numpy", "scikit-learn")


def refuse_used_folder(run: Path) -> None:
    """Raise where a new run cannot have its folder.

    Raises:
        FacegmError: the folder exists and is not empty.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise FacegmError(f"{run}: exists already; go on by `facegm train --resume {run}`, or give another --output")


def create_run_folder(run: Path, config_yaml: str) -> None:
    """Make a new run folder with the resolved config, the command line and the versions, before the first step."""
    run.mkdir(parents=True, exist_ok=True)
    environment = {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"opencv": cv2.__version__} | {name: version(name) for name in _PACKAGES},
        "code": _code_version(),
    }
    replace_atomically(run / CONFIG_FILE, config_yaml.encode())
    replace_atomically(run / ENVIRONMENT_FILE, (json.dumps(environment, indent=2) + "\n").encode())


def _code_version() -> str | None:
    """The commit of the source tree that runs, with `-dirty` for local changes; None for an installed package."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def append_metrics(run: Path, metrics: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with (run / METRICS_FILE).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(metrics) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the complete lines of `metrics.jsonl`."""
    path = run / METRICS_FILE
    if not path.is_file():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def forget_metrics_after(run: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step]
    replace_atomically(run / METRICS_FILE, "".join(kept).encode())
