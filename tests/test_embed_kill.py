"""Protects an embedding against kill -9: whenever it comes, the same command goes on, and ends with the same bytes."""

import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from embedders import save_small_embedder
from facegm_commands import Command
from mixed_photos import make_mixed_photos

SMALL_STEPS = """
import multiprocessing
from facegm.align import engines
from facegm.embedding import embed_source, face_parts
engines.get_context = lambda _: multiprocessing.get_context("fork")
engines.SPAN = 1
embed_source.BATCH = embed_source.PhotosToEmbed.group = 4
face_parts.PART_SECONDS = 0.0
"""
"""Few photos at a time, so that there is a long time in which some are recorded and some are not."""


class Embedding:
    """`facegm embed` into a file, again and again."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self.folder, self.output = folder, folder / name
        self._workers = workers

    def begin(self) -> Command:
        arguments = ["embed", "photos", "--model", "model.safetensors", "--output", self.output.name]
        return Command([*arguments, f"--workers={self._workers}"], self.folder, code=SMALL_STEPS)

    def recorded(self) -> int:
        """Photos that are recorded in whole parts, each of which is read; more than there are once all are done."""
        if self.output.is_file():
            return 10**9
        parts = sorted(Path(f"{self.output}.parts").glob("*.parquet"))
        return len({path for part in parts if part.exists() for path in pq.read_table(part)["path"].to_pylist()})


def kill_and_continue(folder: Path, photos: int, kills: int, seed: int, suffix: str) -> None:
    make_mixed_photos(folder / "photos", photos)
    save_small_embedder(folder / "model.safetensors")
    whole, disturbed = Embedding(folder, f"whole{suffix}", 1), Embedding(folder, f"disturbed{suffix}", 2)
    begun = time.monotonic()
    running = whole.begin()
    assert running.wait(300) == 0, running.output
    seconds = time.monotonic() - begun
    rng, recorded, late = random.Random(seed), 0, 0
    for kill in range(kills):
        running = disturbed.begin()
        if kill % 2:  # at any moment, the start included
            end = time.monotonic() + rng.uniform(0.05, 0.7) * seconds
            while running.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
        else:  # while work is done: soon after there is more than before
            while running.poll() is None and disturbed.recorded() <= recorded:
                time.sleep(0.01)
        late += running.poll() is None
        if running.poll() is None:
            running.signal_group(signal.SIGKILL)
        running.wait()
        assert disturbed.recorded() >= recorded, "recorded photos were lost"
        recorded = disturbed.recorded()
    assert late, "all runs had ended before they were killed"
    running = disturbed.begin()
    assert running.wait(300) == 0, running.output
    assert disturbed.output.read_bytes() == whole.output.read_bytes()
    assert not [*folder.glob("*.parts")]
    assert not [*folder.glob(".*.partial")]


def test_killed_again_and_again_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    kill_and_continue(tmp_path, photos=40, kills=3, seed=3, suffix=".parquet")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_twenty_kills(tmp_path: Path, suffix: str) -> None:
    kill_and_continue(tmp_path, photos=200, kills=20, seed=20, suffix=suffix)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    make_mixed_photos(tmp_path / "photos", 60)
    save_small_embedder(tmp_path / "model.safetensors")
    embedding = Embedding(tmp_path, "faces.parquet", 1)
    running = embedding.begin()
    running.wait_until(lambda: embedding.recorded() > 0)
    running.signal_group(signal.SIGINT)
    assert running.wait() == 130
    assert running.output.endswith("facegm embed: interrupted\n")
    assert embedding.recorded() > 0
