"""What changes over a run, as pure functions of its progress; nothing to save or to restore."""


def linear_warmup(share: float, *, start: float, fraction: float) -> float:
    """Rise linearly from `start` at share 0 of a run to 1 at share `fraction`, and stay there."""
    if share >= fraction:
        return 1.0
    return start + (1 - start) * share / fraction
