"""Protects a set from photos that kill their workers, and the user's time from photos that take long when interrupted.

Workers are real processes; all that can happen in which order is protected in tests/test_align_queue.py.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignment import Alignment
from PIL import Image
from stores import NamedFaces

from facegm.align import local_engine
from facegm.align.config import AlignConfig
from facegm.align.finder import BATCH
from facegm.align.pipeline import align_photos
from facegm.align.worker import Aligner
from facegm.errors import FacegmError
from facegm.store.journal import JOURNALS, read_journal

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
MARK = b"of this photo its worker dies"
KILLING = 37
COUNT = 150
LARGE = 100
"""Enough for two workers."""

BY_RAY = """
import sys

import ray
from alignment import kill_at

from facegm import cli

mark = sys.argv[3].encode()

def hook():
    kill_at(mark)

ray.init(runtime_env={"worker_process_setup_hook": hook}, num_cpus=2, log_to_driver=False, include_dashboard=False)
code = cli.main(["align", sys.argv[1], "--engine=ray", "--workers=2", "--output", sys.argv[2]])
ray.shutdown()
sys.exit(code)
"""


def _make_photos(root: Path) -> None:
    """Noise, every eighth with a face, and one that kills."""
    rng = np.random.default_rng(1)
    root.mkdir()
    with Image.open(HOPPER) as hopper:
        for number in range(COUNT):
            image = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            if number % 8 == 0:
                image = hopper.resize((100 + number % 16, 120 + number % 7))
            image.save(root / f"{number:03}.png")
    (root / f"{KILLING:03}.png").write_bytes(MARK)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killing") / "photos"
    _make_photos(root)
    return root


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store where that photo is just no photo."""
    store = tmp_path_factory.mktemp("stores") / "whole"
    assert Alignment([str(photos), "--output", str(store), "--workers=1"], store.parent).wait(timeout=120) == 0
    return store


def _check(store: Path, whole: Path) -> None:
    """One photo has failed because it kills, and of all others there is what there would be without it."""
    records, expected = NamedFaces(store).records, NamedFaces(whole).records
    killing = f"{KILLING:03}.png"
    assert list(records) == list(expected)
    killed = [record for record in records.values() if record.reason == "killed the worker"]
    assert [(record.key, record.status, record.photo_bytes) for record in killed] == [(killing, "failed", len(MARK))]
    assert killed[0].faces is None, "it may be mended"
    in_its_group = {f"{number:03}.png" for number in range(BATCH, 2 * BATCH)}
    for key in expected.keys() - in_its_group:
        assert records[key] == expected[key]
        if expected[key].status != "failed":
            np.testing.assert_array_equal(NamedFaces(store).face(key), NamedFaces(whole).face(key))
    # In other company products are rounded otherwise.
    for key in in_its_group - {killing}:
        assert (records[key].status, records[key].digest) == (expected[key].status, expected[key].digest)
        if expected[key].status != "failed":
            face, other = NamedFaces(store).face(key), NamedFaces(whole).face(key)
            assert np.abs(face.astype(int) - other).max() <= 1


def test_a_photo_that_kills_its_worker_is_one_failed_line(photos: Path, whole: Path, tmp_path: Path) -> None:
    arguments = [str(photos), "--output", str(tmp_path / "store"), "--workers=2"]
    for _ in range(2):  # it is tried again by the next run, which ends as well
        assert Alignment(arguments, tmp_path, killing=MARK).wait(timeout=120) == 0
        _check(tmp_path / "store", whole)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_with_ray_it_is_the_same(photos: Path, whole: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"PYTHONPATH": str(Path(__file__).parent / "support"), "RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", BY_RAY, str(photos), str(tmp_path / "store"), MARK.decode()]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment | own, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    _check(tmp_path / "store", whole)


# ------------------------------------------------------------------------------------------------- workers that fail


@pytest.mark.usefixtures("quick_workers")
def test_workers_that_die_when_they_begin_end_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "_work", os.abort)  # which takes no arguments
    with pytest.raises(FacegmError, match=r"workers cannot start \(exit code 1\)"):
        align_photos(photos, tmp_path / "store", AlignConfig(workers=2))


def test_a_worker_within_its_memory_passes_the_check_that_finds_it_short() -> None:
    """Protects the judgement of many killing photos in a row: a sound worker is not found short of memory."""
    Aligner(AlignConfig(is_aligned=True), "cpu").check()


# ------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 12 megapixels, each of which takes seconds."""
    root = tmp_path_factory.mktemp("large") / "photos"
    root.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    with Image.open(HOPPER) as hopper:
        large.paste(hopper.resize((1024, 1200)), (1500, 1000))
    large.save(root / "000.jpg", quality=85)
    for number in range(1, LARGE):
        (root / f"{number:03}.jpg").hardlink_to(root / "000.jpg")
    return root


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def _rows(store: Path) -> list[dict[str, Any]]:
    """What an unfinished store has recorded."""
    return [row for path in store.glob(JOURNALS) for rows in read_journal(path) for row in rows]


def _recorded(store: Path) -> int:
    return len(_rows(store))


@pytest.mark.slow
def test_ctrl_c_ends_large_photos_within_5_seconds_and_keeps_those_that_are_done(
    large_photos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    running = Alignment([str(large_photos), "--output", str(store), "--workers=2"], tmp_path)
    _wait_for(lambda: _recorded(store) >= 1)
    begun = time.monotonic()
    running.signal_group(signal.SIGINT)
    assert running.wait(timeout=60) == 130
    assert time.monotonic() - begun < 5
    assert 1 <= _recorded(store) < LARGE
    rows = _rows(store)
    assert {row["status"] for row in rows} == {"aligned"}
    for row in rows:
        assert len((store / f"faces/{row['key']}.png").read_bytes()) == row["length"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_while_workers_begin_is_silent_and_leaves_none(large_photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facegm", "align", str(large_photos), "--output", str(tmp_path / "store")]
    running = subprocess.Popen(
        [*command, "--workers=2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")

    def workers() -> list[Path]:
        # Threads begin them: each task has its own children.
        found = [child for task in children.parents[1].iterdir() for child in (task / "children").read_text().split()]
        return [Path("/proc", child) for child in found]

    _wait_for(lambda: sum("spawn_main" in _command_line(worker) for worker in workers()) >= 2)
    begun, left = time.monotonic(), workers()
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (130, "facegm align: interrupted\n")
    assert time.monotonic() - begun < 5
    _wait_for(lambda: not any("spawn_main" in _command_line(worker) for worker in left))


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""
