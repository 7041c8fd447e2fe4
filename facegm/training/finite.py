"""Stopping before numbers that are not finite spoil a run."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from facegm.data.draws import DrawPlan, samples_of_step
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError


class FiniteGuard:
    """Watches the gradient's norm, which is the same in all processes and not finite where the loss is not.

    On a CPU the step is not taken. From a GPU the number comes while the next step is computed, so that the host never
    waits for it; by then the weights are spoilt, but nothing of them is saved.

    Args:
        run: the run folder.
        plan: the numbers of the run.
        keys: names of the samples.
        is_main: whether this process writes files.
    """

    def __init__(self, run: Path, plan: DrawPlan, keys: Sequence[str], *, is_main: bool) -> None:
        self._run, self._plan, self._keys, self._is_main = run, plan, keys, is_main
        self._pending: tuple[int, Tensor, torch.cuda.Event] | None = None

    def watch(self, step: int, norm: Tensor) -> None:
        """Look at the norm of a step's gradient, counted from 1.

        Raises:
            FacegmError: it is not finite; the message names the step, its images and the likely cause.
        """
        self.settle()
        if norm.device.type != "cuda":
            self.check(step, float(norm))
            return
        on_host = torch.empty((), dtype=norm.dtype, pin_memory=True).copy_(norm, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._pending = step, on_host, arrived

    def settle(self) -> None:
        """Wait for what is on its way from a GPU.

        Raises:
            FacegmError: see `watch`.
        """
        if self._pending is not None:
            step, norm, arrived = self._pending
            self._pending = None
            arrived.synchronize()
            self.check(step, float(norm))

    def check(self, step: int, value: float) -> None:
        """Stop where a number of a step, the same in all processes, is not finite.

        Raises:
            FacegmError: see `watch`.
        """
        if math.isfinite(value):
            return
        names = [self._keys[number] for number in samples_of_step(self._plan, step - 1).tolist()]
        listing = self._run / f"not-finite-step-{step:08d}.txt"
        place = f"in {listing}"
        if self._is_main:
            try:
                replace_atomically(listing, "".join(f"{name}\n" for name in names).encode(errors="surrogateescape"))
            except OSError as error:  # such as a full disk, which is not the trouble here
                place = f"nowhere ({listing}: {error.strerror})"
        raise FacegmError(
            f"at step {step} the loss or its gradient became {value}, and the step was not kept. Its images are "
            f"listed {place} ({names[0]}, ...). Pixels are always finite, so the likely cause is too large a "
            "step: lower optimizer.learning_rate, optimizer.clip_gradient or the loss's margin, or give the learning "
            f"rate a warm-up (optimizer.warmup_fraction); the checkpoints in {self._run} are from before"
        )
