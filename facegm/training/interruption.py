"""SIGTERM and Ctrl-C: a run ends after the step it is in, with a checkpoint."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While this context lasts, the first signal asks to stop; the second acts as it would have."""

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that came."""

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()
