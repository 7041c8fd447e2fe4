"""What to make of a sanity run that did not learn its batch; see `facegm.training.overfit`."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

COLLAPSED = 0.01
"""How near a loss is to that of no knowledge, as a share of it, when features and class vectors have collapsed."""
UNMOVED = 1e-4
"""Smallest change of a loss, as a share of it, that counts as movement."""
FEW = 0.1
"""Share of the faces that may be wrong for other reasons than the training."""


class Observation(NamedTuple):
    """What a check has seen."""

    step: int
    """Counted from 1."""
    loss: float
    classification: float
    """The classification term of the loss; the loss itself where it has no parts."""
    error: float
    """Share of the faces that the network in evaluation mode takes for another identity."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


def diagnose(history: Sequence[Observation], classes: int, wrong: Sequence[str]) -> str:
    """Say what a run without success has shown, and what may help.

    Args:
        history: all checks, in order.
        classes: identities in the batch.
        wrong: names of the faces that are wrong at the last check.
    """
    first, last, third = history[0], history[-1], max(1, len(history) // 3)
    begun, ended = (median(seen.loss for seen in part) for part in (history[:third], history[-third:]))
    late = [seen.loss for seen in history[len(history) // 2 :]]
    seen_last = f"after {last.step} steps the loss is {last.loss:.4g} and {last.error:.0%} of the faces are wrong"
    no_knowledge, shrunk = math.log(classes), last.gradient_norm < first.gradient_norm / 2
    if abs(last.classification - no_knowledge) < COLLAPSED * no_knowledge and shrunk:
        return (
            f"{seen_last}: it is stuck at log({classes}) = {no_knowledge:.4g}, as if nothing were known, and the "
            f"gradient has shrunk from {first.gradient_norm:.2g} to {last.gradient_norm:.2g}. Features and class "
            "vectors have collapsed into one point; lower loss.gm.likelihood_weight (or what your loss adds to the "
            "classification), lengthen its warm-up (loss.gm.warmup_fraction), or lower optimizer.learning_rate"
        )
    if max(late) - min(late) <= UNMOVED * abs(last.loss):
        return f"{seen_last}: the loss does not move; raise optimizer.learning_rate (now {last.learning_rate:.2g})"
    if last.error <= FEW:
        return (
            f"{seen_last}, all others are learnt. Look at {', '.join(wrong[:3])}: the same picture may stand under two "
            "identities; `facegm inspect STORE` shows duplicates"
        )
    if ended > begun:
        return (
            f"{seen_last}: the loss rises, from {begun:.4g} to {ended:.4g}; lower optimizer.learning_rate (now "
            f"{last.learning_rate:.2g}) or optimizer.clip_gradient"
        )
    return (
        f"{seen_last}: the loss falls, from {begun:.4g} to {ended:.4g}, but slowly; raise optimizer.learning_rate (now "
        f"{last.learning_rate:.2g}), or expect to need many epochs (train.epochs); a large weight beside the "
        "classification, such as loss.gm.likelihood_weight, slows it too"
    )
