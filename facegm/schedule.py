"""What changes over the course of a run: pure functions of where it stands, so that there is nothing to save.

The learning rate (`facegm.training.config`), the GM loss's alpha and lambda (`facegm.losses.gm_module`) and L-Softmax's
annealing (`facegm.losses.l_softmax`) are made of these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Progress(NamedTuple):
    """Where a run stands."""

    step: int
    """Steps that are done."""
    steps: int
    """Steps of the whole run."""

    @property
    def share(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / self.steps


def linear_warmup(share: float, *, start: float, fraction: float) -> float:
    """Rise linearly from `start` at share 0 of a run to 1 at share `fraction`, and stay there."""
    if share >= fraction:
        return 1.0
    return start + (1 - start) * share / fraction


def step_decay(share: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`factor` to the power of the milestones passed."""
    return float(factor ** sum(share >= milestone for milestone in milestones))


def cosine_decay(share: float) -> float:
    """From 1 to 0 along half a period of the cosine (Loshchilov and Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * share)) / 2


def power_decay(step: int, *, start: float, gamma: float, power: float, minimum: float) -> float:
    """max(minimum, start (1 + gamma step)^-power): L-Softmax's annealing, by steps and not by the run's share."""
    return max(minimum, start * math.pow(1 + gamma * step, -power))
