"""Protects the queue between the pipeline and its workers: no photo is lost, doubled or out of order."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from facegm.align import engines
from facegm.align.config import AlignConfig
from facegm.align.engines import SPAN
from facegm.align.pipeline import align_photos
from facegm.align.worker import BATCH, Result
from facegm.data.readers.photo import Photo
from facegm.data.store import FaceRecord, FaceStore
from facegm.errors import FacegmError

TAKEN = BATCH * SPAN
"""Photos that a worker takes at a time."""


class _PoolInThisProcess:
    """Stands in for the process pool: work is done at once, and the `breaks_at`-th chunk kills its worker."""

    breaks_at: int | None = None
    chunks = 0

    def __init__(self, workers: int, **_: Any) -> None:
        self.workers = workers
        type(self).chunks = 0

    def __enter__(self) -> "_PoolInThisProcess":
        return self

    def __exit__(self, *_: object) -> None: ...

    def shutdown(self, **_: Any) -> None: ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if type(self).chunks == type(self).breaks_at:
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result(work(*arguments))
        type(self).chunks += 1
        return future


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[_PoolInThisProcess]:
    class Failing:
        def align(self, groups: Sequence[Sequence[Photo]]) -> list[Result]:
            assert all(len(group) <= BATCH for group in groups)
            return [Result(_failed(photo), None, (0.0, 0.0, 0.0)) for group in groups for photo in group]

    monkeypatch.setattr(engines, "ProcessPoolExecutor", _PoolInThisProcess)
    monkeypatch.setattr(engines, "_aligner", Failing())
    monkeypatch.setattr(_PoolInThisProcess, "breaks_at", None)
    return _PoolInThisProcess


def _failed(photo: Photo) -> FaceRecord:
    return FaceRecord(key=photo.key, identity=photo.identity, status="failed", reason="a test", faces=0)


def _photos(count: int) -> list[Photo]:
    return [Photo(path=f"{number}.jpg", key=f"{number:04}.jpg", identity="x") for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 400, 700])
def test_no_number_of_photos_loses_one(
    pool: type[_PoolInThisProcess], tmp_path: Path, count: int, workers: int
) -> None:
    counts = align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=workers), photos=_photos(count))
    assert list(FaceStore(tmp_path / "store").records) == [photo.key for photo in _photos(count)]
    assert counts == {"failed": count, "failed: a test": count}
    assert pool.chunks == -(-count // TAKEN)


def test_a_killed_worker_says_what_to_do_and_the_rest_is_continued(
    pool: type[_PoolInThisProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "breaks_at", 4)
    with pytest.raises(FacegmError, match=r"worker was killed.*run again to go on"):
        align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=2), photos=_photos(500))
    assert list(FaceStore(tmp_path / "store").records) == [photo.key for photo in _photos(4 * TAKEN)]
    monkeypatch.setattr(pool, "breaks_at", None)
    assert (
        align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=2), photos=_photos(500))["failed"] == 500
    )
    assert list(FaceStore(tmp_path / "store").records) == [photo.key for photo in _photos(500)]


def test_a_store_is_not_continued_with_other_photos(pool: type[_PoolInThisProcess], tmp_path: Path) -> None:
    # The keys may be the same: the faces of one set must never be taken for those of another.
    align_photos(tmp_path / "lfw", tmp_path / "store", AlignConfig(workers=1), photos=_photos(3))
    with pytest.raises(FacegmError, match=r"made otherwise \(source: .*lfw, now .*lfw-deepfunneled\)"):
        align_photos(tmp_path / "lfw-deepfunneled", tmp_path / "store", AlignConfig(workers=1), photos=_photos(3))


def test_only_new_photos_are_aligned_when_some_are_added(pool: type[_PoolInThisProcess], tmp_path: Path) -> None:
    align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(20))
    assert align_photos(Path("photos"), tmp_path / "store", AlignConfig(workers=1), photos=_photos(30))["failed"] == 30
    assert pool.chunks == 1
    assert list(FaceStore(tmp_path / "store").records) == [photo.key for photo in _photos(30)]
