"""How the learning rate falls over a run: pure functions of its progress, so that there is nothing to save."""

import math
from collections.abc import Sequence


def step_decay(progress: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`factor` to the power of the milestones passed."""
    return float(factor ** sum(progress >= milestone for milestone in milestones))


def cosine_decay(progress: float) -> float:
    """From 1 to 0 along half a period of the cosine (Loshchilov and Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2
