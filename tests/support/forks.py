"""Processes that begin at once: forked from one that has imported torch and this package, and has done nothing else.

A Python that is started anew takes seconds of a processor to import them, most of what a test of processes would take.
They have the environment of the tests' beginning, not what a test has changed since.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from quick_charts import leave_out_geometry
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__

_ALIGNING = ("facegm.cli.align", "facegm.align.pipeline")
_TRAINING = ("facegm.cli.train", "facegm.faces.run", "facegm.eval.validation", "torch._dynamo")
PATIENCE = 300.0
"""Seconds after which processes of a test are ended."""


def forks() -> ForkServerContext:
    """The way to begin such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_ALIGNING, *_TRAINING])
    here = Path.cwd()
    os.chdir(Path(__file__).parent)  # in the checkout's root, Python would find the sources before the package
    try:
        ensure_running()
    finally:
        os.chdir(here)
    return context


def run_ranks(size: int, arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script, or `-m MODULE`, with its arguments as so many gloo processes in a folder; the caller checks.

    They find what torchrun would tell them in their environment, and all are ended as soon as one has failed.
    """
    outputs = [(folder / f".stdout-{rank}", folder / f".stderr-{rank}") for rank in range(size)]
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "TORCHELASTIC_RUN_ID": "of a test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    ranks = [
        forks().Process(
            target=_run,
            args=(list(arguments), folder, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, outputs[rank]),
        )
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    end, code = time.monotonic() + PATIENCE, 0
    while any(rank.is_alive() for rank in ranks):
        ranks[0].join(0.01)
        if time.monotonic() > end:
            code = -1
        code = code or next((rank.exitcode for rank in ranks if rank.exitcode), 0)
        if code:
            for rank in ranks:
                rank.kill()
    code = code or next((rank.exitcode for rank in ranks if rank.exitcode), 0)
    said = ["".join(path.read_text() for path in paths if path.exists()) for paths in zip(*outputs, strict=True)]
    for path in (path for paths in outputs for path in paths):
        path.unlink(missing_ok=True)
    return subprocess.CompletedProcess(list(arguments), code, *said)


def _run(arguments: list[str], folder: Path, environment: dict[str, str], outputs: tuple[Path, Path]) -> None:
    for stream, path in zip((1, 2), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(folder)
    os.environ.update(environment)
    leave_out_geometry()
    if arguments[0] == "-m":
        sys.path.insert(0, str(folder))
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
