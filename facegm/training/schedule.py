"""How the learning rate falls over a run: a pure function of its progress, so that there is nothing to save."""

from collections.abc import Sequence


def step_decay(progress: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`factor` to the power of the milestones passed."""
    return float(factor ** sum(progress >= milestone for milestone in milestones))
