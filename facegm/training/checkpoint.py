"""Checkpoints: one file a step, written aside, synced and renamed; the newest few are kept."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from facegm.data.files import atomic_file
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)
FORMAT = 3
FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(run: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps; delete all but the `keep` newest checkpoints, and what a kill left of one."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    with atomic_file(path, sync=True) as file:
        torch.save({"format": FORMAT, "step": step, **state}, file)
    for old in checkpoints(run)[:-keep]:
        old.unlink()
    for partial in folder.glob(".step-*.partial"):
        partial.unlink()


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*.pt") if _NAME.fullmatch(path.name))


def load_newest_checkpoint(run: Path) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of a run onto the CPU; None where there is none yet.

    Only tensors and plain values are read: a file that holds code is refused. A damaged file is passed over with a
    warning where there is one before it.

    Raises:
        FacegmError: all are damaged or hold code, or one is of another format.
    """
    damage = ""
    for path in reversed(checkpoints(run)):
        state, reason = _load(path)
        if state is not None:
            return state
        damage = f"{path}: damaged or not a facegm checkpoint ({reason})"
        logger.warning(f"{damage}; looking for the one before")
    if damage:
        raise FacegmError(f"{damage}, and there is none before it; begin anew in another run folder")
    return None


def _load(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in a file, or None and what is wrong with it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # torch.load raises anything from OSError to UnpicklingError on damaged files
        return None, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if version != FORMAT:
        raise FacegmError(f"{path}: checkpoint format {version}, this facegm reads {FORMAT}")
    return dict(state), ""
