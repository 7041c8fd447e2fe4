"""What a checkpoint holds, and whether it belongs to the run that wants to go on from it."""

from pathlib import Path

from facegm.data.draws import DrawPlan
from facegm.data.faces import LabelledFaces
from facegm.errors import FacegmError
from facegm.losses.shard import Shard
from facegm.training.checkpoint import load_newest_checkpoint, save_checkpoint
from facegm.training.config import RunConfig
from facegm.training.optimization import Optimization
from facegm.training.shards import change_shards
from facegm.training.task import FaceTask


class TrainingState:
    """All that a run has become, saved and restored together.

    A checkpoint holds all of a parameter that is split over the processes, and can be restored by any number of them.
    Learning rate, margin, data order, augmentation and all other random numbers follow from the step and the seed.
    """

    def __init__(
        self, run: Path, config: RunConfig, faces: LabelledFaces, plan: DrawPlan, task: FaceTask, course: Optimization
    ) -> None:
        self._run, self._config, self._plan, self._task, self._optimization = run, config, plan, task, course
        self._identity = _identity(config, faces)

    def save(self, step: int, *, is_main: bool) -> None:
        """Write a checkpoint after `step` steps: called by all processes, written by the main one."""
        state = {"task": self._task.state_dict(), **self._optimization.state_dict()}
        state = change_shards(state, self._task, self._optimization.optimizer, Shard.whole_of)
        if is_main:
            epoch, steps_in_epoch = divmod(step, self._plan.steps_per_epoch)
            position = {"epoch": epoch, "steps_in_epoch": steps_in_epoch}
            state |= {"identity": self._identity, "config": self._config.to_yaml(), "position": position}
            save_checkpoint(self._run, step, state, self._config.train.keep_checkpoints)

    def restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the number of steps that are done.

        Raises:
            FacegmError: the checkpoints are damaged, or belong to another network, data set or course of training.
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
        state = change_shards(state, self._task, self._optimization.optimizer, Shard.part_of)
        self._task.load_state_dict(state["task"])
        self._optimization.load_state_dict(state)
        return int(state["step"])


def _identity(config: RunConfig, faces: LabelledFaces) -> dict[str, str]:
    """What must be equal for a checkpoint to fit, by config key."""
    return {
        "model": str(config.model),
        "preprocessing": str(config.preprocessing),
        "loss": str(config.loss),
        "optimizer": str(config.optimizer),
        "data.jitter": str(config.data.jitter),
        "data.balanced": str(config.data.balanced),
        "train.epochs": str(config.train.epochs),
        "train.batch_size": str(config.train.batch_size),
        "train.seed": str(config.train.seed),
        "train.ema_decay": str(config.train.ema_decay),
        "the training data": f"{len(faces)} faces of {len(faces.identities)} identities ({faces.fingerprint})",
    }
