"""What a checkpoint holds, and whether it belongs to the run that wants to go on from it."""

from pathlib import Path

import torch

from facegm.data.faces import LabelledFaces
from facegm.errors import FacegmError
from facegm.losses.shard import Shard
from facegm.training.checkpoint import load_newest_checkpoint, save_checkpoint
from facegm.training.config import RunConfig
from facegm.training.shards import change_shards
from facegm.training.task import FaceTask


class TrainingState:
    """The network, the loss and the optimiser of a run, saved and restored together.

    A checkpoint holds all of a parameter that is split over the processes, and can be restored by any number of them.
    Learning rate, margin, data order and augmentation follow from the step and the seed, and need no saving.
    """

    def __init__(
        self, run: Path, config: RunConfig, faces: LabelledFaces, task: FaceTask, optimizer: torch.optim.Optimizer
    ) -> None:
        self._run, self._task, self._optimizer = run, task, optimizer
        self._keep = config.train.keep_checkpoints
        self._identity = _identity(config, faces)

    def save(self, step: int, *, is_main: bool) -> None:
        """Write a checkpoint after `step` steps: called by all processes, written by the main one."""
        state = {"task": self._task.state_dict(), "optimizer": self._optimizer.state_dict()}
        state = change_shards(state, self._task, self._optimizer, Shard.whole_of)
        if is_main:
            save_checkpoint(self._run, step, {"identity": self._identity, **state}, self._keep)

    def restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the number of steps that are done.

        Raises:
            FacegmError: the checkpoint is damaged, or belongs to another network, data set or course of training.
        """
        state = load_newest_checkpoint(self._run)
        if state is None:
            return 0
        saved: dict[str, str] = state["identity"]
        changed = [name for name, value in self._identity.items() if saved.get(name) != value]
        if changed:
            raise FacegmError(
                f"{self._run}: the checkpoint belongs to another run: "
                + "; ".join(f"{name} was {saved.get(name)}, now {self._identity[name]}" for name in changed)
                + "; restore these settings, or begin anew in another run folder"
            )
        state = change_shards(state, self._task, self._optimizer, Shard.part_of)
        self._task.load_state_dict(state["task"])
        self._optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def _identity(config: RunConfig, faces: LabelledFaces) -> dict[str, str]:
    """What must be equal for a checkpoint to fit, by config key."""
    return {
        "model": str(config.model),
        "preprocessing": str(config.preprocessing),
        "loss": str(config.loss),
        "optimizer": str(config.optimizer),
        "data.jitter": str(config.data.jitter),
        "train.epochs": str(config.train.epochs),
        "train.batch_size": str(config.train.batch_size),
        "train.seed": str(config.train.seed),
        "the training data": f"{len(faces)} faces of {len(faces.identities)} identities ({faces.fingerprint})",
    }
