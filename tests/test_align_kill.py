"""Protects a store against kill -9: whenever it comes, the next run goes on, and the end is that of an undisturbed run.

The whole process group is killed at random moments, again and again, and no picture is ever seen half-written.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from facegm.align.timings import TIMINGS_FILE
from facegm.data.face_files import FACES_FOLDER
from facegm.data.find_photos import find_photos
from facegm.data.store import MANIFEST_FILE, read_manifest

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
Container = Literal["folder", "tar"]


def _make_photos(folder: Path, count: int) -> None:
    """Every third photo has a face, every tenth cannot be read."""
    rng = np.random.default_rng(7)
    (folder / "ann").mkdir(parents=True)
    with Image.open(HOPPER) as hopper:
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            if number % 3 == 0:
                image = hopper.resize((100 + number % 50, 120 + number % 40))
            image.save(folder / f"ann/{number:04}.png")
    for number in range(5, count, 10):
        path = folder / f"ann/{number:04}.png"
        os.truncate(path, path.stat().st_size // 2)


def _contents(store: Path) -> dict[str, bytes]:
    """All that lies in a store, half-written files too, but for the timings, which no two runs share."""
    found = (path for path in store.rglob("*") if path.is_file() and path.name != TIMINGS_FILE)
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def _start(photos: Path, store: Path, container: Container) -> subprocess.Popen[bytes]:
    options = ["--output", str(store), "--workers=2", f"--container={container}"]
    command = [sys.executable, "-m", "facegm", "align", str(photos), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=photos.parent, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
    )


def _finish(photos: Path, store: Path, container: Container) -> float:
    start = time.monotonic()
    assert _start(photos, store, container).wait(timeout=300) == 0
    return time.monotonic() - start


def _check_what_is_seen(store: Path) -> int:
    """Whether all that a reader would see is whole; returns how many photos are recorded."""
    for picture in (store / FACES_FOLDER).rglob("*.png"):
        if not picture.name.startswith("."):
            assert cv2.imread(str(picture)) is not None, f"{picture} is half-written"
    return _recorded(store)


def _recorded(store: Path) -> int:
    return len({record.key for record in read_manifest(store / MANIFEST_FILE)})


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


def _kill_and_continue(photos: Path, store: Path, container: Container, kills: int, seed: int) -> None:
    whole, seconds = store / "whole", _finish(photos, store / "whole", container)
    rng, disturbed, recorded = random.Random(seed), store / "disturbed", 0
    for kill in range(kills):
        running = _start(photos, disturbed, container)
        if kill % 2:  # at any moment, the start included
            _wait(running, rng.uniform(0.05, 0.95) * seconds)
        else:  # while work is done: soon after there is more than before
            while running.poll() is None and _recorded(disturbed) <= recorded:
                time.sleep(0.01)
            _wait(running, rng.uniform(0, 0.1) * seconds)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert _check_what_is_seen(disturbed) >= recorded, "recorded photos were lost"
        recorded = _check_what_is_seen(disturbed)
    _finish(photos, disturbed, container)
    assert _contents(disturbed) == _contents(whole)
    assert sorted(path.name for path in disturbed.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert [record.key for record in read_manifest(disturbed / MANIFEST_FILE)] == [p.key for p in find_photos(photos)]


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_killed_again_and_again_a_store_ends_as_if_nothing_had_been(tmp_path: Path, container: Container) -> None:
    _make_photos(tmp_path / "photos", 130)
    _kill_and_continue(tmp_path / "photos", tmp_path, container, kills=3, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["folder", "tar"])
def test_twenty_kills_on_300_real_photos(tmp_path: Path, shared_data: Path, container: Container) -> None:
    (tmp_path / "photos").mkdir()
    for person in sorted((shared_data / "lfw/lfw-deepfunneled").iterdir())[:200]:
        shutil.copytree(person, tmp_path / "photos" / person.name)
    _make_photos(tmp_path / "photos", 50)
    _kill_and_continue(tmp_path / "photos", tmp_path, container, kills=20, seed=20)
