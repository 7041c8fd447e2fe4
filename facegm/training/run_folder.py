"""The run folder: what was asked for, with which software, and what came out."""

import errno
import fcntl
import json
import platform
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import cv2
import yaml

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError
from facegm.identity import dotted

CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE = "config.yaml", "environment.json", "metrics.jsonl"
_LOCK_FILE = ".lock"
_PACKAGES = ("facegm", "torch", "torchvision", "facenet-pytorch", "numpy", "scikit-learn")


class LockedRunError(FacegmError):
    """Another process trains in the run folder."""


def is_run(run: Path) -> bool:
    """Whether a folder is a run's, to be gone on with; not if it is yet to be made.

    Raises:
        FacegmError: the folder is something else.
    """
    if not run.exists():
        return False
    if (run / CONFIG_FILE).is_file():
        return True
    # A kill while the folder was made may have left the other file, or a part of one.
    begun = {_LOCK_FILE, ENVIRONMENT_FILE, f".{ENVIRONMENT_FILE}.partial", f".{CONFIG_FILE}.partial"}
    if not run.is_dir() or not {path.name for path in run.iterdir()} <= begun:
        raise FacegmError(f"{run}: exists and is not a run folder; give another --output")
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, which is made when missing, while this context lasts.

    Raises:
        LockedRunError: another process is in it.
        FacegmError: a file that was to be written there has no room.
    """
    with _named_want_of_room(run), _lock_file(run) as lock:
        try:
            # Unlike that of flock, it is not shared by worker processes, which outlive a main one that is killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise LockedRunError(
                f"{run}: another process is training in this folder; wait for its end, or give another --output"
            ) from error
        yield


def _lock_file(run: Path) -> IO[str]:
    run.mkdir(parents=True, exist_ok=True)
    return (run / _LOCK_FILE).open("w")


@contextmanager
def _named_want_of_room(run: Path) -> Iterator[None]:
    """Say so where a disk is full, for whatever file that was to be written.

    TensorBoard writes in a thread. The main one is told of its error when it writes next; the trace is not shown.
    """
    show = threading.excepthook
    threading.excepthook = lambda error: None if is_want_of_room(error.exc_value) else show(error)
    try:
        yield
    except OSError as error:
        if not is_want_of_room(error):
            raise
        raise FacegmError(
            f"no space left in {run}: make room, and give the same command again; it goes on from the newest "
            "checkpoint, and all that are there are whole"
        ) from error
    finally:
        threading.excepthook = show


def is_want_of_room(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def require_same_configuration(run: Path, stored: str, asked: str) -> None:
    """Refuse to go on with a run folder by another configuration than the one that lies in it.

    Args:
        run: the run folder.
        stored: what lies in it, as YAML, defaults filled in.
        asked: what is asked for, likewise.

    Raises:
        FacegmError: they differ; the keys and both values are named.
    """
    before, now = (dict(dotted(yaml.safe_load(text))) for text in (stored, asked))
    changed = [
        f"{key}: {before.get(key)}, now {now.get(key)}" for key in before | now if before.get(key) != now.get(key)
    ]
    if changed:
        raise FacegmError(
            f"{run}: holds a run of another configuration ({'; '.join(changed)}); go on with it by `facegm train "
            f"--resume {run}`, or give another --output"
        )


def create_run_folder(run: Path, configuration: str) -> None:
    """Put the resolved configuration, the command line and the versions into a run folder, before the first step."""
    environment = {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"opencv": cv2.__version__} | {name: version(name) for name in _PACKAGES},
        "code": _code_version(),
    }
    replace_atomically(run / ENVIRONMENT_FILE, (json.dumps(environment, indent=2) + "\n").encode())
    replace_atomically(run / CONFIG_FILE, configuration.encode())  # last: it makes the folder a run


def _code_version() -> str | None:
    """The commit of the source tree that runs, with `-dirty` for local changes; None for an installed package."""
    tracked = ["git", "ls-files", "--error-unmatch", __file__]  # not a package in the tree of another project
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        for command in (tracked, describe):
            found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
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
