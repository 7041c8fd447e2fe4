"""Fixtures shared by all tests; real data is read from `../shared/data` or $FACEGM_DATA, and its absence is said."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from forks import forks, run_ranks
from quick_charts import quick_charts
from threadpoolctl import threadpool_limits

from facegm.align.face import TEMPLATE
from facegm.losses.engine import Operands
from facegm.losses.fused import Fused
from facegm.store.format import FORMAT, encode_face, manifest_writer, to_table

DATA = Path(os.environ.get("FACEGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
WANT_OF_DATA = "real data not found"


def pytest_configure(config: pytest.Config) -> None:
    """Tests run side by side, each on one thread; and where not just those that need a GPU are run, none sees one.

    The environment tells it to the processes that tests start.
    """
    # A job in the background, or under nohup, has them ignored, and so would all processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)
    _take_one_thread()
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # GPU kernels run as Python; has to be said before triton is imported


def _take_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where none is to be seen, or other libraries where they are not on the path."""
    _take_one_thread()  # whatever a test before has set, as the command that serves does
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and to be run by `make test-gpu`")
    if item.get_closest_marker("peers") and importlib.util.find_spec("torchattacks") is None:
        pytest.skip("needs other libraries, and to be run by `make test-peers`")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photos and protocol files; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"{WANT_OF_DATA} at {DATA}; set FACEGM_DATA")
    return DATA


@pytest.fixture(scope="session")
def unpacked_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CIFAR-10 in its binary layout, 180 MB; the test is skipped where the real data is absent."""
    script = DATA / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip(f"{WANT_OF_DATA} at {DATA}; set FACEGM_DATA")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped for want of real data, in whichever process."""
    skipped = terminalreporter.getreports("skipped")
    names = [report.nodeid.split("::")[-1] for report in skipped if WANT_OF_DATA in report.longreprtext]
    if names:
        terminalreporter.write_line(
            f"SKIPPED for want of real data at {DATA} (set FACEGM_DATA): {', '.join(names)}", yellow=True
        )


@pytest.fixture(scope="module")
def quick_workers() -> Iterator[None]:
    """The workers of an alignment are forked from a process that has imported what they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facegm.align.engines.get_context", lambda _: forks())
        yield


@pytest.fixture(scope="module")
def one_thread() -> None:
    """What all tests have; for files that ask for it."""


@pytest.fixture(scope="session", autouse=True)
def charts_are_quick() -> Iterator[None]:
    """Tests do not wait for charts that they do not look at."""
    with quick_charts():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_disk() -> Iterator[None]:
    """No test waits for the disk, which others are busy with too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sync", lambda: None)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def kernels_run() -> bool:
    """Whether GPU kernels can run here.

    Triton is absent on some platforms, and the interpreter of older ones cannot count with a newer numpy.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, own = torch.ones(1, 2, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    try:
        Fused().compare(Operands(x, x, own, "distances"))
    except Exception as error:
        if re.search("only 0-dimensional arrays can be converted|array with ndim > 0 to a scalar", str(error)):
            return False
        raise
    return True


Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def torchrun() -> Torchrun:
    """Run a script, or `-m MODULE`, with its arguments as so many gloo processes in a folder; the caller checks.

    By torchrun itself where options of its own come first, else by `run_ranks`, which takes a tenth of the time.
    """

    def run(processes: int, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "-m" or not arguments[0].startswith("-"):
            return run_ranks(processes, arguments, folder)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6 identities with 8 noisy variations of one smooth pattern each; made without any detector."""
    folder = tmp_path_factory.mktemp("small-store")
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for identity in range(6):
        pattern = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (128, 128), interpolation=cv2.INTER_CUBIC)
        for photo in range(8):
            face = encode_face(np.clip(pattern + rng.normal(0, 20, (128, 128, 3)), 0, 255).astype(np.uint8))
            key = f"person_{identity}/person_{identity}_{photo + 1:04d}.jpg"
            path = folder / f"faces/{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(face)
            row = {"key": key, "identity": f"person_{identity}", "status": "aligned"}
            rows.append(row | {"offset": 0, "length": len(face), "checksum": zlib.crc32(face)})
    rows.append({"key": "person_0/x.jpg", "identity": "person_0", "status": "failed", "reason": "empty"})
    with manifest_writer(folder) as manifest:
        manifest.write_table(to_table(rows))
    settings = {"format": FORMAT, "size": 128, "template": TEMPLATE.tolist()}
    (folder / "store.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those of matplotlib that are saved."""
    from matplotlib.figure import Figure

    saved: list[Any] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
