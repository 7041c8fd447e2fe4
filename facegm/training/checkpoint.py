"""Checkpoints: all that a run has become, one file a step, written aside, synced and renamed; the newest few are kept.

Learning rate, margin, data order, augmentation and all other random numbers follow from the step and the seed, and are
not in it. A parameter that is split over the processes is whole in a checkpoint, and can be restored by any number of
them.
"""

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml
from torch import Tensor

from facegm.data.files import atomic_file
from facegm.errors import FacegmError
from facegm.identity import differences, dotted, identity_of
from facegm.losses.shard import Shard
from facegm.training.config import to_yaml
from facegm.training.optimizer import restore_optimizer
from facegm.training.run_folder import is_want_of_room
from facegm.training.setup import TrainingSetup

if TYPE_CHECKING:
    from facegm.training.loop import Trainer

logger = logging.getLogger(__name__)
FORMAT, FORMAT_BEFORE = 4, 3
FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8})\.pt")


class Resumed(NamedTuple):
    """Where a run goes on."""

    step: int
    """Steps that are done; 0 for a new run."""
    numbers: dict[str, float]
    """What the log was to be told of that step; empty for a new run."""


def save(
    run: Path,
    setup: TrainingSetup[Any],
    trainer: "Trainer[Any]",
    step: int,
    numbers: dict[str, float],
    *,
    is_main: bool,
) -> None:
    """Write a checkpoint after `step` steps: called by all processes, written by the main one.

    Raises:
        FacegmError: there is no room for it.
    """
    state: dict[str, Any] = {
        "task": trainer.task.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "average": None if trainer.average is None else trainer.average.state_dict(),
    }
    state = _change_shards(state, trainer, Shard.whole_of)
    if not is_main:
        return
    epoch, steps_in_epoch = divmod(step, setup.plan.steps_per_epoch)
    state |= {
        "identity": identity_of(setup.config),
        "data": setup.data,
        "config": to_yaml(setup.config),
        "position": {"epoch": epoch, "steps_in_epoch": steps_in_epoch},
        "numbers": numbers,
    }
    save_checkpoint(run, step, state, setup.train.keep_checkpoints)


def restore(run: Path, setup: TrainingSetup[Any], trainer: "Trainer[Any]") -> Resumed:
    """Load the newest checkpoint, if there is one.

    Raises:
        FacegmError: the checkpoints are damaged, or belong to another network, data set or course of training.
    """
    state = load_newest_checkpoint(run)
    if state is None:
        return Resumed(0, {})
    changed = differences(state["identity"], setup.config)
    if state["data"] != setup.data:
        changed.append(f"the training data was {state['data']}, now {setup.data}")
    if changed:
        raise FacegmError(
            f"{run}: the checkpoint belongs to another run: {'; '.join(changed)}; restore these settings, or begin "
            "anew in another run folder"
        )
    state = _change_shards(state, trainer, Shard.part_of)
    trainer.task.load_state_dict(state["task"])
    restore_optimizer(trainer.optimizer, state["optimizer"])
    if state["scaler"]:  # empty where another precision was trained in
        trainer.scaler.load_state_dict(state["scaler"])
    if trainer.average is not None:
        trainer.average.load_state_dict(state["average"])
    return Resumed(int(state["step"]), dict(state["numbers"]))


def save_checkpoint(run: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps; delete all but the `keep` newest checkpoints, and what a kill left of one.

    Raises:
        FacegmError: there is no room for it; those before stay.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    for partial in folder.glob(".step-*.partial"):
        partial.unlink()
    size, room = sum(tensor.nbytes for tensor in _tensors(state)), shutil.disk_usage(folder).free
    if room < size:
        raise FacegmError(_no_space(path, size, room))
    try:
        with atomic_file(path, sync=True) as file:
            torch.save({"format": FORMAT, "step": step, **state}, file)
    except (OSError, RuntimeError) as error:  # torch's writer hides the reason behind an error of its own
        reasons = (error, error.__context__, error.__cause__)
        if any(map(is_want_of_room, reasons)):
            raise FacegmError(_no_space(path, size, shutil.disk_usage(folder).free)) from error
        raise
    for old in checkpoints(run)[:-keep]:
        old.unlink()


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*.pt") if _NAME.fullmatch(path.name))


def load_newest_checkpoint(run: Path) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of a run onto the CPU; None where there is none yet.

    A damaged file is passed over with a warning where there is one before it.

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


def weights_of(state: dict[str, Any]) -> dict[str, Any]:
    """The task's weights in a checkpoint that its run exports: their average, where it keeps one."""
    average = state["average"]
    return dict(state["task"] if average is None else average["task"])


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU. Only tensors and plain values are read: a file that holds code is refused.

    Raises:
        FacegmError: it is damaged, holds code, or is of another format.
    """
    state, reason = _load(path)
    if state is None:
        raise FacegmError(f"{path}: damaged or not a facegm checkpoint ({reason})")
    return state


def _load(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in a file, or None and what is wrong with it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # torch.load raises anything from OSError to UnpicklingError on damaged files
        return None, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if version == FORMAT_BEFORE:
        return _from_format_before(state), ""
    if version != FORMAT:
        raise FacegmError(f"{path}: checkpoint format {version}, this facegm reads {FORMAT}")
    return dict(state), ""


def _from_format_before(state: dict[str, Any]) -> dict[str, Any]:
    """Format 3 knew its run by texts, and averaged the network alone; the class vectors' average begins at the last."""
    average = state["average"]
    if average is not None:
        network = {f"network.{name}": tensor for name, tensor in average["network"].items()}
        average = {"task": state["task"] | network, "has_begun": average["steps"] > 0}
    return state | {
        "average": average,
        "identity": dict(dotted(yaml.safe_load(state["config"]))),
        "data": state["identity"]["the training data"],
        "numbers": {},
    }


def _change_shards(
    state: dict[str, Any], trainer: "Trainer[Any]", change: Callable[[Shard, Tensor], Tensor]
) -> dict[str, Any]:
    """A state with every tensor that belongs to a part of a parameter changed, from that of the part to the whole's."""
    sharded = trainer.task.sharded
    if not sharded:
        return state
    names = {parameter: name for name, parameter in trainer.task.named_parameters()}
    shards = [sharded.get(names[p]) for group in trainer.optimizer.param_groups for p in group["params"]]

    def of_task(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: change(sharded[name], t) if name in sharded else t for name, t in tensors.items()}

    def of_parameter(shard: Shard | None, values: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's values: tensors of the parameter's shape, such as momentum, are split like it."""
        return {
            name: change(shard, value) if shard and isinstance(value, Tensor) and value.ndim > 0 else value
            for name, value in values.items()
        }

    of_optimizer = {number: of_parameter(shards[number], v) for number, v in state["optimizer"]["state"].items()}
    average = state["average"] and state["average"] | {"task": of_task(state["average"]["task"])}
    return state | {
        "task": of_task(state["task"]),
        "average": average,
        "optimizer": state["optimizer"] | {"state": of_optimizer},
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)


def _no_space(path: Path, size: int, room: int) -> str:
    return (
        f"no space left in {path.parent} for a checkpoint of {size / 1e6:.0f} MB ({room / 1e6:.0f} MB are free): make "
        "room, or lower train.keep_checkpoints, and give the same command again; the checkpoints before are whole"
    )
