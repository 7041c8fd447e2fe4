"""One worker, as its owner sees it, and the one that is a process of this machine."""

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, Generic, Protocol

from facegm.align.photo_job import Groups, Outcome, PhotoJob
from facegm.errors import FacegmError


class WorkerDied(Exception):  # noqa: N818 - not an error of the program's
    """A worker has ended in the middle of its work, or before."""


class Worker(Protocol[Outcome]):
    """A process that looks at photos, begun but perhaps not ready yet."""

    def wait_until_ready(self) -> None:
        """Wait for it to have loaded what it needs; raises what keeps it from that, or `WorkerDied`."""

    def process(self, groups: Groups) -> Iterator[list[Outcome]]:
        """Yield the outcomes of photos that were looked at together; raises the worker's errors, or `WorkerDied`."""

    def check(self) -> None:
        """Do what any worker can (see `PhotoProcessor.check`); raises `WorkerDied` where it cannot."""

    def kill(self) -> None:
        """End it at once, from any thread."""

    def close(self) -> None:
        """Give back what is left of it, once it was killed."""


class LocalWorker(Generic[Outcome]):
    """A worker process of this machine.

    Args:
        context: how processes are begun.
        job: what it does.
        gpu: the number of its GPU.
    """

    _beginning = threading.Lock()
    """So that no process that is forked by one thread holds the pipe of another's open, whose end would not be seen."""

    def __init__(self, context: BaseContext, job: PhotoJob[Outcome], gpu: int) -> None:
        with self._beginning:
            self._connection, other = context.Pipe()
            self._process: Any = context.Process(  # type: ignore[attr-defined]  # all contexts have it
                target=_work, args=(other, job, gpu), daemon=True
            )
            self._process.start()
            other.close()

    def wait_until_ready(self) -> None:
        """See `Worker`."""
        self._receive()

    def process(self, groups: Groups) -> Iterator[list[Outcome]]:
        """See `Worker`."""
        self._send(groups)
        while (outcomes := self._receive()) is not None:
            yield outcomes

    def check(self) -> None:
        """See `Worker`."""
        self._send(None)
        self._receive()

    def kill(self) -> None:
        """See `Worker`; it holds nothing that would have to be put in order."""
        self._process.kill()

    def close(self) -> None:
        """See `Worker`."""
        self._end()
        self._connection.close()

    def _send(self, message: Groups | None) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise WorkerDied(self._end()) from error

    def _receive(self) -> list[Outcome] | None:
        try:
            message: list[Outcome] | Exception | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(self._end()) from error
        if isinstance(message, Exception):
            raise message
        return message

    def _end(self) -> str:
        self._process.join(1)
        return f"exit code {self._process.exitcode}"


def _work(connection: Connection, job: PhotoJob[Any], gpu: int) -> None:
    """What a worker process does: tell that it is ready; then for all it is told, outcomes, and None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        processor = job.begin(gpu)
        connection.send(None)
        while True:
            groups = connection.recv()
            if groups is None:
                processor.check()
            else:
                for outcomes in processor.process(groups):
                    connection.send(outcomes)
            connection.send(None)
    except (EOFError, BrokenPipeError):  # nobody listens any more
        return
    except FacegmError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"a worker has failed:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """A worker waits for work for ever, even when its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
