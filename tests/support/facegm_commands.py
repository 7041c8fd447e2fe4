"""facegm's command line in processes of their own, which begin at once; see `forks`."""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from forks import forks
from quick_charts import leave_out_geometry

from facegm.cli import main

MOUNT = """
import ctypes, os
def mount_small(folder, kilobytes):
    '''An empty file system for this process alone; SystemExit of 77 where that is not allowed.'''
    c = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive, private = 0x20000, 0x4000, 0x40000
    size = f"size={kilobytes}k".encode()
    if c.unshare(new_namespace) or c.mount(None, b"/", None, recursive | private, None) or \
            c.mount(b"none", os.fsencode(folder), b"tmpfs", 0, size):
        raise SystemExit(77)
"""
"""Code that defines `mount_small`, for what is to fill a disk."""
MAY_NOT_MOUNT = 77


class Command:
    """A command that is begun, in a session of its own.

    Args:
        arguments: of `facegm`.
        folder: working folder; what the command says goes to a file there.
        name: of that file.
        environment: variables beside the tests' own.
        code: Python to be run there before, such as one that breaks something.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        name: str = "output.txt",
        environment: Mapping[str, str] | None = None,
        code: str = "",
    ) -> None:
        self._file = folder / name
        self._process = forks().Process(
            target=_run, args=(list(arguments), folder, self._file, dict(environment or {}), code)
        )
        self._process.start()
        self.pid = self._process.pid or 0
        atexit.register(self.kill)  # where a test has failed before it ended

    @property
    def output(self) -> str:
        """What it has said so far, and the commands before with the same file."""
        return self._file.read_text() if self._file.exists() else ""

    def poll(self) -> int | None:
        """Its exit code, once it has ended; of a signal, minus its number."""
        return self._process.exitcode

    def kill(self) -> None:
        """By SIGKILL, the main process alone."""
        self._process.kill()

    def signal_group(self, number: signal.Signals) -> None:
        """As a terminal does, or a service manager."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float = 60) -> int | None:
        """Its exit code; None where it has not ended after so many seconds, and is killed."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        return code

    def wait_until(self, is_reached: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until the command has come so far."""
        end = time.monotonic() + timeout
        while not is_reached():
            assert self.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)


def begin_ranks(arguments: Sequence[str], folder: Path, *, size: int = 2, code: str = "") -> list[Command]:
    """A command as so many gloo processes, without torchrun, which would end all as soon as one has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    meeting |= {"LOCAL_WORLD_SIZE": str(size)}
    return [
        Command(
            arguments,
            folder,
            name=f"output-{rank}.txt",
            environment=meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            code=code,
        )
        for rank in range(size)
    ]


def _run(arguments: list[str], folder: Path, output: Path, environment: dict[str, str], code: str) -> None:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    leave_out_geometry()
    multiprocessing.set_start_method("fork", force=True)  # not by the fork server, as its children would
    exec(code, {})
    result = main(arguments)
    atexit._run_exitfuncs()  # which multiprocessing passes over
    sys.exit(result)
