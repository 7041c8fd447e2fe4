"""What changes over a run, as pure functions of its progress from 0 to 1; nothing to save or to restore."""

from collections.abc import Sequence


def linear_warmup(progress: float, *, start: float, fraction: float) -> float:
    """Rise linearly from `start` at progress 0 to 1 at progress `fraction`, and stay there."""
    if progress >= fraction:
        return 1.0
    return start + (1 - start) * progress / fraction


def step_decay(progress: float, milestones: Sequence[float], factor: float = 0.1) -> float:
    """`factor` to the power of the milestones passed."""
    return float(factor ** sum(progress >= milestone for milestone in milestones))
