"""Protects the queue between the pipeline and its workers: no photo is lost, doubled or out of order, whoever dies.

Workers here are stand-ins that work in their threads; tests/test_align_killed.py has real ones.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stores import NamedFaces

from facegm.align import engines
from facegm.align.config import AlignConfig
from facegm.align.engines import KILLED_IN_A_ROW, SPAN, SPANS_AHEAD, WorkerPool, gpus_of_workers, number_of_workers
from facegm.align.finder import BATCH
from facegm.align.local_engine import WorkerDied
from facegm.align.photo_job import Groups
from facegm.align.pipeline import align_photos
from facegm.align.worker import AlignJob, Result
from facegm.data.progress import Progress
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError
from facegm.store.format import FaceRecord
from facegm.store.journal import read_journal

TAKEN = BATCH * SPAN
"""Photos that a worker takes at a time."""
JOB = AlignJob(config=AlignConfig(), runtime="cpu")


class _Worker:
    """Fails on all photos, and dies of some; notes what it is given."""

    killing: frozenset[str] = frozenset()
    """Keys of photos that kill a worker."""
    fatal_tries = 10**9
    """How often they do so."""
    is_stillborn = False
    is_weak = False
    """Whether it dies of `check` too."""
    delay = 0.0
    given: list[list[list[str]]]
    tries: dict[str, int]
    begun: list["_Worker"]

    def __init__(self, *_: object) -> None:
        self.begun.append(self)
        self.is_dead = False

    def wait_until_ready(self) -> None:
        if self.is_stillborn:
            raise WorkerDied("exit code 9")

    def process(self, groups: Groups) -> Iterator[list[Result]]:
        assert not self.is_dead, "a dead worker was given work"
        self.given.append([[photo.key for photo in group] for group in groups])
        for group in groups:
            assert len(group) <= BATCH
            half = len(group) // 2 or 1  # as if its photos were too large to be looked at together
            for batch in (group[:half], group[half:]):
                time.sleep(self.delay * random.random())
                for photo in batch:
                    self.tries[photo.key] = self.tries.get(photo.key, 0) + 1
                    if self.is_dead or (photo.key in self.killing and self.tries[photo.key] <= self.fatal_tries):
                        self.is_dead = True
                        raise WorkerDied("exit code -9")
                if batch:
                    yield [Result(_failed(photo), None) for photo in batch]

    def check(self) -> None:
        if self.is_weak:
            self.is_dead = True
            raise WorkerDied("exit code -9")

    def kill(self) -> None:
        self.is_dead = True

    def close(self) -> None:
        assert self.is_dead


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[_Worker]:
    class Worker(_Worker):
        given: list[list[list[str]]] = []  # noqa: RUF012 - of this test alone
        tries: dict[str, int] = {}  # noqa: RUF012
        begun: list[_Worker] = []  # noqa: RUF012

    monkeypatch.setattr(engines, "LocalWorker", Worker)
    return Worker


def _failed(photo: Photo) -> FaceRecord:
    return FaceRecord(key=photo.key, identity=photo.identity, status="failed", reason="a test", faces=0)


def _photos(count: int) -> list[Photo]:
    return [Photo(path=__file__, key=f"{number:04}.jpg", identity="x") for number in range(count)]


def _groups(count: int) -> list[list[Photo]]:
    photos = _photos(count)
    return [photos[start : start + BATCH] for start in range(0, count, BATCH)]


def _aligned(count: int, workers: int) -> list[Result]:
    with WorkerPool(_groups(count), JOB, workers=workers) as pool:
        return [result for results in pool for result in results]


def _keys(count: int) -> list[str]:
    return [photo.key for photo in _photos(count)]


def _reasons(results: list[Result]) -> dict[str, str | None]:
    return {result.record.key: result.record.reason for result in results}


# ------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 400, 700])
def test_no_number_of_photos_loses_one(workers: type[_Worker], tmp_path: Path, count: int, number: int) -> None:
    summary = align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=number), photos=_photos(count))
    assert list(NamedFaces(tmp_path / "store").records) == _keys(count)
    assert summary.store.statuses == {"failed": count, "failed: a test": count}
    assert len(workers.given) == -(-count // TAKEN)
    assert len(workers.begun) == min(number, len(workers.given))
    assert all(worker.is_dead for worker in workers.begun), "a worker is left"


def test_results_come_in_order_however_long_each_takes(workers: type[_Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "delay", 0.01)
    assert [result.record.key for result in _aligned(1000, 4)] == _keys(1000)


def test_results_come_batch_by_batch_as_soon_as_they_can(workers: type[_Worker]) -> None:
    with WorkerPool(_groups(2 * TAKEN), JOB, workers=2) as pool:
        batches = [[result.record.key for result in results] for results in pool]
    half = BATCH // 2
    assert batches == [_keys(2 * TAKEN)[start : start + half] for start in range(0, 2 * TAKEN, half)]


def test_workers_do_not_run_ahead_of_who_takes_their_results(workers: type[_Worker]) -> None:
    """Protects memory: results wait in it until they are taken."""
    with WorkerPool(_groups(20 * TAKEN), JOB, workers=2) as pool:
        results = iter(pool)
        next(results)
        end = time.monotonic() + 5
        while len(workers.given) < 2 * SPANS_AHEAD and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(workers.given) == 2 * SPANS_AHEAD
        assert 1 + sum(1 for _ in results) == 20 * SPAN * 2


def test_without_photos_no_worker_is_begun(workers: type[_Worker]) -> None:
    assert _aligned(0, 2) == []
    assert workers.begun == []


# ------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "killing", [{"0000.jpg"}, {"0063.jpg"}, {"0031.jpg", "0032.jpg"}, {"0100.jpg", "0101.jpg", "0105.jpg"}]
)
def test_photos_that_kill_are_recorded_and_all_others_are_done(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch, killing: set[str], number: int
) -> None:
    monkeypatch.setattr(workers, "killing", frozenset(killing))
    results = _aligned(300, number)
    assert [result.record.key for result in results] == _keys(300)
    expected = {key: "killed the worker" if key in killing else "a test" for key in _keys(300)}
    assert _reasons(results) == expected
    assert {result.record.faces for result in results if result.record.key in killing} == {None}  # may be tried again


def test_what_is_tried_again_is_tried_in_ever_smaller_company(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First all that is left of the span, then group by group, then photo by photo, and the killing one once more."""
    monkeypatch.setattr(workers, "killing", frozenset({"0020.jpg"}))
    _aligned(TAKEN, 1)
    first, second = _keys(TAKEN)[:BATCH], _keys(TAKEN)[BATCH:]
    assert workers.given[0] == [first, second]
    rest = first[BATCH // 2 :]  # what had come from the worker is not done again
    # 0016 to 0031 alone; its first half is 0016 to 0023, of which nothing came.
    alone = [[[key]] for key in rest]
    again = alone.index([["0020.jpg"]])
    assert workers.given[1:] == [[rest], *alone[: again + 1], alone[again], *alone[again + 1 :], [second]]
    assert workers.tries["0020.jpg"] == 4
    assert len(workers.begun) == 5


def test_who_dies_by_chance_is_replaced_and_groups_stay_together(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the store's bytes: which photos are looked at together must not depend on a worker's death."""
    monkeypatch.setattr(workers, "killing", frozenset({"0005.jpg"}))
    monkeypatch.setattr(workers, "fatal_tries", 1)
    assert set(_reasons(_aligned(TAKEN, 1)).values()) == {"a test"}
    first, second = _keys(TAKEN)[:BATCH], _keys(TAKEN)[BATCH:]
    assert workers.given == [[first, second], [first], [second]]


def test_a_photo_that_kills_but_not_when_it_is_tried_once_more_is_done(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "killing", frozenset({"0005.jpg"}))
    monkeypatch.setattr(workers, "fatal_tries", 3)
    assert set(_reasons(_aligned(TAKEN, 1)).values()) == {"a test"}


@pytest.mark.parametrize("is_weak", [False, True])
def test_many_killing_photos_in_a_row_are_recorded_unless_any_picture_kills(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch, is_weak: bool
) -> None:
    """Protects a set from being recorded as failed where memory is short, and a rerun with killing photos alone."""
    monkeypatch.setattr(workers, "killing", frozenset(_keys(3 * KILLED_IN_A_ROW)))
    monkeypatch.setattr(workers, "is_weak", is_weak)
    if is_weak:
        with pytest.raises(FacegmError, match=r"all photos from 0000.jpg to 0004.jpg, and by a plain.*fewer --workers"):
            _aligned(40, 1)
    else:
        assert list(_reasons(_aligned(40, 1)).values()).count("killed the worker") == 3 * KILLED_IN_A_ROW


def test_killing_photos_among_others_raise_no_doubt(workers: type[_Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    killing = _keys(300)[10:300:20]
    assert len(killing) > 2 * KILLED_IN_A_ROW
    monkeypatch.setattr(workers, "killing", frozenset(killing))
    monkeypatch.setattr(workers, "is_weak", True)
    assert list(_reasons(_aligned(300, 1)).values()).count("killed the worker") == len(killing)


def test_workers_that_cannot_start_end_the_run(workers: type[_Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "is_stillborn", True)
    with pytest.raises(FacegmError, match=r"workers cannot start \(exit code 9\): perhaps memory is short"):
        _aligned(100, 2)


# ------------------------------------------------------------------------------------------------- interruption


def test_after_an_interruption_what_is_finished_is_kept_and_nothing_twice(
    workers: type[_Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first span hangs, so that what others have finished waits behind it."""
    hangs = threading.Event()
    original = workers.process

    def align(self: _Worker, groups: Groups) -> Iterator[list[Result]]:
        for number, results in enumerate(original(self, groups)):
            if number and groups[0][0].key == "0000.jpg":
                while not self.is_dead:
                    hangs.set()
                    time.sleep(0.001)
                raise WorkerDied("killed")
            yield results

    monkeypatch.setattr(workers, "process", align)
    given: list[str] = []
    with WorkerPool(_groups(3 * TAKEN), JOB, workers=2) as pool:
        given += [result.record.key for result in next(iter(pool))]
        assert hangs.wait(5)
        end = time.monotonic() + 5
        while len(workers.given) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        given += [result.record.key for results in pool.finished() for result in results]
    half = BATCH // 2
    assert given == _keys(3 * TAKEN)[:half] + _keys(3 * TAKEN)[TAKEN:]
    assert all(worker.is_dead for worker in workers.begun)


def test_an_interrupted_store_has_all_that_was_finished(
    workers: type[_Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted when the first results are recorded, and those of all spans that are handed out are there."""

    def interrupt(self: Progress, count: int) -> None:
        end = time.monotonic() + 5
        while sum(workers.tries.values()) < SPANS_AHEAD * TAKEN and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(500))
    lines = read_journal(tmp_path / "store/journal.jsonl")
    assert [row["key"] for rows in lines for row in rows] == _keys(SPANS_AHEAD * TAKEN)
    align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(500))
    assert list(NamedFaces(tmp_path / "store").records) == _keys(500)
    assert max(workers.tries.values()) == 1, "done twice"


# ------------------------------------------------------------------------------------------------- stores


def test_a_store_is_not_continued_with_other_photos(workers: type[_Worker], tmp_path: Path) -> None:
    # The keys may be the same: the faces of one set must never be taken for those of another.
    align_photos(tmp_path / "lfw", tmp_path / "store", AlignConfig(workers=1), photos=_photos(3))
    with pytest.raises(FacegmError, match=r"made otherwise \(source: .*lfw, now .*lfw-deepfunneled\)"):
        align_photos(tmp_path / "lfw-deepfunneled", tmp_path / "store", AlignConfig(workers=1), photos=_photos(3))


def test_only_new_photos_are_aligned_when_some_are_added(workers: type[_Worker], tmp_path: Path) -> None:
    align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(20))
    workers.given.clear()
    summary = align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(30))
    assert summary.store.statuses["failed"] == 30
    assert len(workers.given) == 1
    assert list(NamedFaces(tmp_path / "store").records) == _keys(30)


# ------------------------------------------------------------------------------------------------- numbers of workers


def test_workers_go_round_the_gpus() -> None:
    assert gpus_of_workers(7, 3) == [0, 1, 2, 0, 1, 2, 0]
    assert gpus_of_workers(2, 4) == [0, 1]
    assert gpus_of_workers(3, 0) == [0, 0, 0]


@pytest.mark.parametrize(("uses_gpu", "room", "gpus", "expected"), [(False, 8, 1, 8), (True, 8, 2, 6), (True, 4, 2, 4)])
def test_a_gpu_has_a_few_workers_and_no_more_than_the_machine_has_room_for(
    uses_gpu: bool, room: int, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "default_workers", lambda: room)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert number_of_workers(uses_gpu=uses_gpu) == expected
