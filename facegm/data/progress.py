"""How far a long work has come: a bar on a terminal, and elsewhere a line now and then, for logs."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_INTERVAL = 30.0
"""Seconds from one line to the next."""
_BAR_DELAY = 1.0
"""Seconds before a bar is shown: what is done sooner needs none."""


class Progress:
    """Counts what is done of a work. A context manager.

    Args:
        name: what is done, such as `align`.
        total: how much there is to do.
        unit: what is counted, as plural, such as `photos`.
        done: how much of it was done before.
        is_shown: False to stay silent.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        is_shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._unit, self._clock = name, total, unit, clock
        self._first = self._done = done
        self._begun = self._said = clock()
        has_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._is_logged = is_shown and not has_terminal
        self._bar: tqdm[NoReturn] | None = None
        if is_shown and has_terminal:  # tqdm makes a semaphore, and a worker that is killed would leave it behind
            self._bar = tqdm(desc=name, total=total, initial=done, unit=" " + unit, delay=_BAR_DELAY)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int) -> None:
        """Say that so much more is done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        now = self._clock()
        if self._is_logged and now - self._said >= LOG_INTERVAL:
            self._said = now
            logger.info(self._line(now - self._begun))

    def _line(self, seconds: float) -> str:
        speed = (self._done - self._first) / seconds
        left = f"{_duration((self._total - self._done) / speed)} left" if speed else "no end in sight"
        pace = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
        return f"{self._name}: {self._done:,} of {self._total:,} {self._unit}, {pace}/s, {left}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
