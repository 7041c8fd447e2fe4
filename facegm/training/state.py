"""What a checkpoint holds, and whether it belongs to the run that wants to go on from it."""

from pathlib import Path
from typing import Any

from facegm.errors import FacegmError
from facegm.losses.shard import Shard
from facegm.training.checkpoint import load_newest_checkpoint, save_checkpoint
from facegm.training.optimization import Optimization
from facegm.training.setup import TrainingSetup
from facegm.training.shards import change_shards


class TrainingState:
    """All that a run has become, saved and restored together.

    A checkpoint holds all of a parameter that is split over the processes, and can be restored by any number of them.
    Learning rate, margin, data order, augmentation and all other random numbers follow from the step and the seed.
    """

    def __init__(self, run: Path, setup: TrainingSetup[Any], optimization: Optimization[Any]) -> None:
        self._run, self._setup, self._optimization = run, setup, optimization

    def save(self, step: int, *, is_main: bool) -> None:
        """Write a checkpoint after `step` steps: called by all processes, written by the main one."""
        setup = self._setup
        state = {"task": setup.task.state_dict(), **self._optimization.state_dict()}
        state = change_shards(state, setup.task, self._optimization.optimizer, Shard.whole_of)
        if is_main:
            epoch, steps_in_epoch = divmod(step, setup.plan.steps_per_epoch)
            position = {"epoch": epoch, "steps_in_epoch": steps_in_epoch}
            state |= {"identity": dict(setup.must_match), "config": setup.configuration, "position": position}
            save_checkpoint(self._run, step, state, setup.train.keep_checkpoints)

    def restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the number of steps that are done.

        Raises:
            FacegmError: the checkpoints are damaged, or belong to another network, data set or course of training.
        """
        state = load_newest_checkpoint(self._run)
        if state is None:
            return 0
        expected, saved = self._setup.must_match, state["identity"]
        changed = [name for name, value in expected.items() if saved.get(name) != value]
        if changed:
            raise FacegmError(
                f"{self._run}: the checkpoint belongs to another run: "
                + "; ".join(f"{name} was {saved.get(name)}, now {expected[name]}" for name in changed)
                + "; restore these settings, or begin anew in another run folder"
            )
        state = change_shards(state, self._setup.task, self._optimization.optimizer, Shard.part_of)
        self._setup.task.load_state_dict(state["task"])
        self._optimization.load_state_dict(state)
        return int(state["step"])
