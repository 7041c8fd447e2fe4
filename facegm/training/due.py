"""What is to be done after which step of a run, beside training."""

from typing import NamedTuple

from facegm.data.draws import DrawPlan
from facegm.training.config import TrainConfig

PROJECTIONS = 4
"""Times in a run that embeddings are shown."""


class Due(NamedTuple):
    """What is due after a step."""

    checkpoint: bool
    validation: bool
    log: bool
    """A line of the log; there is one wherever something is saved, validated or shown."""
    projection: bool
    """Embeddings of some samples for TensorBoard."""


def due_after(step: int, train: TrainConfig, plan: DrawPlan, *, validate_every: int, is_stopping: bool) -> Due:
    """What is due after a step, counted from 1; at the end of the run, everything.

    Args:
        step: the step.
        train: how often what is done.
        plan: the numbers of the run.
        validate_every: epochs between two validations.
        is_stopping: whether the run is to be left after this step, to go on later.
    """
    is_last = step == plan.steps
    projection = is_last or step % max(1, plan.steps // PROJECTIONS) == 0
    checkpoint = is_last or is_stopping or step % train.checkpoint_every == 0
    validation = is_last or step % (validate_every * plan.steps_per_epoch) == 0
    return Due(
        checkpoint=checkpoint,
        validation=validation,
        log=checkpoint or validation or projection or step % train.log_every == 0,
        projection=projection,
    )
