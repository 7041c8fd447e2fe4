"""SIGTERM and Ctrl-C: a run ends after the step it is in, with a checkpoint."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While this context lasts, a signal asks to stop; the second Ctrl-C acts as it would have.

    SIGTERM comes twice where both a service manager and torchrun pass it on.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that came."""

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
