"""SIGTERM, SIGHUP and Ctrl-C: a run ends with a checkpoint, also while it waits for data that do not come."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from facegm.errors import StoppedError

Item = TypeVar("Item")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0
"""Seconds that one process of several waits for its data after a signal; without data it cannot take the step that the
others take, and so cannot be saved with them."""


class _InterruptedError(BaseException):
    """Ends a wait."""


class StopSignals:
    """While this context lasts, a signal asks to stop; the second Ctrl-C acts as it would have.

    SIGTERM comes twice where both a service manager and torchrun pass it on. A signal that was ignored, as nohup
    ignores SIGHUP, stays ignored.

    Args:
        is_alone: whether this process is the only one of its run.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self.received: str | None = None
        """Name of the signal that came."""
        self._is_alone, self._is_waiting = is_alone, False

    def __enter__(self) -> "StopSignals":
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterate; a process that is alone ends at once where a signal comes while it waits for the next item.

        Raises:
            StoppedError: one process of several has waited long after a signal; what it did since the last checkpoint
                is lost.
        """
        iterator = iter(items)
        while True:
            try:
                with self._waiting():
                    item = next(iterator, None)
            except _InterruptedError:
                if not self._is_alone:
                    raise StoppedError(
                        f"stopped by {self.received} while waiting for data, which other processes have; the run goes "
                        "on from its newest checkpoint when the same command is given again"
                    ) from None
                return
            if item is None:
                return
            yield item

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._is_waiting = True
        try:
            if self.received:
                self._interrupt()
            yield
        finally:
            self._is_waiting = False

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        if self._is_waiting:
            self._interrupt()

    def _interrupt(self) -> None:
        """End the wait: at once, or where others wait for this process after `PATIENCE`."""
        if self._is_alone:
            self._give_up()
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _give_up(self, *_: object) -> None:
        if self._is_waiting:
            self._is_waiting = False  # what cleans up after the wait is not interrupted
            raise _InterruptedError
