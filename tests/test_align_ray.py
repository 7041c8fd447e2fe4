"""Protects the alignment by Ray: the store of this machine's workers, in silence, and nothing left behind."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stores import contents

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.align.ray_engine import share_of_gpu
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError

pytestmark = pytest.mark.usefixtures("quick_workers")

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))

FINISH = """
import os, sys

import ray

from facegm import cli

align = ["align", sys.argv[1], "--engine=ray", "--workers=2", "--output", sys.argv[2]]
assert cli.main(align) == 0
assert not ray.is_initialized()
assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
assert cli.main(align) == 0  # nothing is left to do: Ray is not even started
"""

INTERRUPT = """
import sys

import ray

from facegm import cli
from facegm.align import pipeline

class Interrupted(pipeline.StoreWriter):
    def add(self, results):
        assert ray.is_initialized()
        raise KeyboardInterrupt

pipeline.StoreWriter = Interrupted
assert cli.main(["align", sys.argv[1], "--engine=ray", "--workers=2", "--output", sys.argv[2]]) == 130
assert not ray.is_initialized()
"""


def _make_photos(root: Path) -> None:
    """Three spans, of which the last is done the soonest."""
    rng = np.random.default_rng(1)
    root.mkdir()
    with Image.open(HOPPER) as hopper:
        for number in range(150):
            image = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            if number % 4 == 0 and number < 128:
                image = hopper.resize((100 + number % 16, 120 + number % 7))
            image.save(root / os.fsdecode(b"%03d \xe9\n.png" % number))


@needs_ray
def test_ray_makes_the_same_store_in_silence_and_leaves_no_process(tmp_path: Path) -> None:
    _make_photos(tmp_path / "photos")
    stdout, stderr = _run(FINISH, tmp_path)
    assert stderr == []
    assert all(line.startswith((str(tmp_path), "  ", "align: ")) for line in stdout), stdout

    align_photos(tmp_path / "photos", tmp_path / "by workers", AlignConfig(workers=1))
    assert contents(tmp_path / "by ray") == contents(tmp_path / "by workers")


@needs_ray
@pytest.mark.slow
def test_interrupted_it_is_silent_too_and_leaves_no_process(tmp_path: Path) -> None:
    _make_photos(tmp_path / "photos")
    assert _run(INTERRUPT, tmp_path) == ([], ["facegm align: interrupted"])


def _run(script: str, folder: Path) -> tuple[list[str], list[str]]:
    """What a script that aligns by Ray says on both streams; it must succeed, and leave no process."""
    command = [sys.executable, "-c", script, str(folder / "photos"), str(folder / "by ray")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mark = f"mark of {folder}"
    # Ray runs its workers at niceness 15: beside other work they would not even begin in time.
    session = {"MARK_OF_THIS_TEST": mark, "RAY_worker_niceness": "0"}
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment | session, timeout=500
    )
    assert ran.returncode == 0, ran.stderr
    assert _left_running(mark) == []
    # Ray says that it heeds the variable by which it is kept silent.
    return ran.stdout.splitlines(), [line for line in ran.stderr.splitlines() if "RAY_BACKEND_LOG_LEVEL" not in line]


def _left_running(mark: str) -> list[str]:
    """Processes that inherited the mark in their environment."""
    processes = [process for process in Path("/proc").glob("[0-9]*") if _read(process / "environ").find(mark) >= 0]
    return [_read(process / "cmdline") for process in processes]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize(("workers", "gpus"), [(1, 1), (3, 1), (2, 4), (3, 2), (7, 2), (64, 8), (7, 1)])
def test_workers_find_room_on_the_gpus_of_a_cluster(workers: int, gpus: int) -> None:
    """Protects from workers that wait for a GPU for ever: a share lies on one GPU as a whole."""
    share = share_of_gpu(workers, gpus)
    assert 0 < share <= 1
    assert share == round(share, 4), "Ray counts by ten-thousandths"
    assert int(1 / share) * gpus >= workers


def test_a_cluster_without_gpus_is_refused() -> None:
    with pytest.raises(FacegmError, match="cuda: the Ray cluster has no GPU"):
        share_of_gpu(2, 0)


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    photos: Sequence[Photo] = [Photo(path=str(HOPPER), key="hopper.jpg", identity="x")]
    with pytest.raises(FacegmError, match=r"engine ray needs Ray: pip install 'facegm\[ray\]'"):
        align_photos(Path("photos"), tmp_path / "store", AlignConfig(engine="ray"), photos=photos)
