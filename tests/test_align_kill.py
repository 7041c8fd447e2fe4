"""Protects a store against kill -9: whenever it comes, the next run goes on, and the end is that of an undisturbed run.

The whole process group is killed at random moments, again and again, and no picture is ever seen half-written.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import pytest
from alignment import Alignment, warm_up
from mixed_photos import make_mixed_photos
from stores import NamedFaces, contents

from facegm.data.readers.source import find_photos
from facegm.store.format import FACES_FOLDER, MANIFEST_FILE
from facegm.store.journal import JOURNALS, read_journal

Container = Literal["folder", "tar"]


class NewCommand(subprocess.Popen[bytes]):
    """`facegm` in a Python that is started anew, with its workers in its group."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        command, quiet = [sys.executable, "-m", "facegm", *arguments], subprocess.DEVNULL
        super().__init__(command, cwd=folder, stdout=quiet, stderr=quiet, start_new_session=True)

    def kill_group(self) -> None:
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class TwoShards:
    """Two jobs that make a store together."""

    def __init__(self, arguments: list[str], folder: Path, *, batch: int) -> None:
        self._jobs = [Alignment([*arguments, f"--shard={index}/2"], folder, batch=batch) for index in range(2)]

    def poll(self) -> int | None:
        codes = [job.poll() for job in self._jobs]
        return None if None in codes else max(code or 0 for code in codes)

    def wait(self, timeout: float) -> int | None:
        codes = [job.wait(timeout) for job in self._jobs]
        return None if None in codes else max(code or 0 for code in codes)

    def kill_group(self) -> None:
        for job in self._jobs:
            job.kill_group()


Running = Alignment | NewCommand | TwoShards
Start = Callable[[Path], Running]
"""Begins to align into a store."""


def _arguments(photos: Path, container: Container, store: Path) -> list[str]:
    return [str(photos), "--output", str(store), "--workers=2", f"--container={container}"]


def _finish(start: Start, store: Path) -> float:
    begun = time.monotonic()
    assert start(store).wait(timeout=300) == 0
    return time.monotonic() - begun


def _check_what_is_seen(store: Path) -> int:
    """Whether all that a reader would see is whole; returns how many photos are recorded."""
    for picture in (store / FACES_FOLDER).rglob("*.png"):
        if not picture.name.startswith("."):
            assert cv2.imread(str(picture)) is not None, f"{picture} is half-written"
    return _recorded(store)


def _recorded(store: Path) -> int:
    recorded = {row["key"] for path in store.glob(JOURNALS) for rows in read_journal(path) for row in rows}
    return len(NamedFaces(store).records if (store / MANIFEST_FILE).is_file() else recorded)


def _wait(process: Running, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def _kill_and_continue(photos: Path, folder: Path, start: Start, kills: int, seed: int) -> None:
    whole, seconds = folder / "whole", _finish(start, folder / "whole")
    rng, disturbed, recorded, late = random.Random(seed), folder / "disturbed", 0, 0
    for kill in range(kills):
        running = start(disturbed)
        if kill % 2:  # at any moment, the start included
            _wait(running, rng.uniform(0.05, 0.7) * seconds)
        else:  # while work is done: soon after there is more than before
            while running.poll() is None and _recorded(disturbed) <= recorded:
                time.sleep(0.01)
            _wait(running, rng.uniform(0, 0.1) * seconds)
        late += running.poll() is None
        running.kill_group()
        assert _check_what_is_seen(disturbed) >= recorded, "recorded photos were lost"
        recorded = _check_what_is_seen(disturbed)
    assert late, "all runs had ended before they were killed"
    _finish(start, disturbed)
    assert contents(disturbed) == contents(whole)
    assert sorted(path.name for path in disturbed.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert list(NamedFaces(disturbed).records) == [photo.key for photo in find_photos(photos).photos]


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_killed_again_and_again_a_store_ends_as_if_nothing_had_been(tmp_path: Path, container: Container) -> None:
    photos = tmp_path / "photos"
    make_mixed_photos(photos, 64)

    def start(store: Path) -> Alignment:
        # Few photos at a time, so that there is a long time in which some are recorded and some are not.
        return Alignment(_arguments(photos, container, store), tmp_path, batch=8)

    warm_up()  # so that the time of the first is its own
    _kill_and_continue(photos, tmp_path, start, kills=3, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["folder", "tar"])
@pytest.mark.parametrize("job", [Alignment, TwoShards])
def test_twenty_kills_of_one_job_and_of_two(
    tmp_path: Path, container: Container, job: type[Alignment] | type[TwoShards]
) -> None:
    photos = tmp_path / "photos"
    make_mixed_photos(photos, 200)
    warm_up()
    _kill_and_continue(
        photos, tmp_path, lambda store: job(_arguments(photos, container, store), tmp_path, batch=8), kills=20, seed=20
    )


@pytest.mark.slow
@pytest.mark.parametrize("container", ["folder", "tar"])
def test_twenty_kills_on_300_real_photos(tmp_path: Path, shared_data: Path, container: Container) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for person in sorted((shared_data / "lfw/lfw-deepfunneled").iterdir())[:200]:
        shutil.copytree(person, photos / person.name)
    make_mixed_photos(photos, 50)

    def start(store: Path) -> NewCommand:
        return NewCommand(["align", *_arguments(photos, container, store)], tmp_path)

    _kill_and_continue(photos, tmp_path, start, kills=20, seed=20)
