"""Protects the alignment in shards: jobs that share a store, in any order, at once or killed, make that of one job."""

import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from alignment import Alignment, InThisProcess
from PIL import Image
from stores import NamedFaces, contents

from facegm import cli
from facegm.align import engines
from facegm.align.config import AlignConfig
from facegm.align.finder import BATCH
from facegm.align.pipeline import align_photos
from facegm.data.files import create_atomically
from facegm.errors import FacegmError
from facegm.store.format import FACES_FOLDER, MANIFEST_FILE, SETTINGS_FILE, StoreFormat, begin_store
from facegm.store.journal import Shard

pytestmark = pytest.mark.usefixtures("in_this_process")

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
PHOTOS = 5 * BATCH + 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six groups of photos, each with faces, noise, and one that cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    with Image.open(HOPPER) as hopper:
        for number in range(PHOTOS):
            image = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            if number % 8 == 0:
                image = hopper.resize((100 + number % 16, 120 + number % 7))
            (root / f"person {number % 3}").mkdir(exist_ok=True)
            image.save(root / f"person {number % 3}/{number:03}.png")
    for number in range(7, PHOTOS, BATCH):
        (root / f"person {number % 3}/{number:03}.png").write_bytes(b"torn")
    return root


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Work without worker processes, which take seconds to start; what they do is protected elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "LocalWorker", InThisProcess)
        yield


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory, in_this_process: None) -> Path:
    """The store of one job."""
    store = tmp_path_factory.mktemp("stores") / "whole"
    align_photos(photos, store, AlignConfig())
    return store


def _align(photos: Path, store: Path, shard: str, container: Literal["folder", "tar"] = "folder") -> int:
    """Do one job; returns how many photos it had."""
    config = AlignConfig(shard=Shard.parse(shard), store_format=StoreFormat(container=container))
    counts = align_photos(photos, store, config).store.statuses
    return counts["aligned"] + counts["failed"]


# ------------------------------------------------------------------------------------------------- the same store


@pytest.mark.parametrize("order", [("0/2", "1/2"), ("2/3", "0/3", "1/3")])
def test_the_store_of_several_jobs_is_that_of_one(
    photos: Path, whole: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    done = []
    for shard in order:
        with pytest.raises(FacegmError, match="store"):  # no store yet, or an unfinished one
            _ = NamedFaces(tmp_path / "store").records
        assert not (tmp_path / "store" / MANIFEST_FILE).exists()
        done.append(_align(photos, tmp_path / "store", shard))
    assert sum(done) == PHOTOS
    assert min(done) >= BATCH
    assert contents(tmp_path / "store") == contents(whole)


def test_in_tar_files_the_faces_are_those_of_one_job(photos: Path, whole: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "0/2"):
        _align(photos, tmp_path / "store", shard, "tar")
    store = tmp_path / "store"
    assert sorted(path.name for path in (store / FACES_FOLDER).iterdir()) == [*("00000.tar", "00001.tar")]
    expected, packed = NamedFaces(whole), NamedFaces(store)
    assert packed.records == expected.records
    pictured = [key for key, record in expected.records.items() if record.status != "failed"]
    assert len(pictured) >= 20
    for key in pictured:
        np.testing.assert_array_equal(packed.face(key), expected.face(key))


def test_jobs_that_run_again_change_nothing(photos: Path, whole: Path, tmp_path: Path) -> None:
    for shard in ("0/2", "1/2", "0/2"):
        _align(photos, tmp_path / "store", shard)
    assert contents(tmp_path / "store") == contents(whole)


def test_a_mended_photo_comes_to_its_place(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(b"torn")
    for shard in ("0/2", "1/2"):
        _align(source, tmp_path / "store", shard)
    (source / "1.png").write_bytes((photos / "person 0/000.png").read_bytes())
    _align(source, tmp_path / "store", "0/2")
    statuses = [record.status for record in NamedFaces(tmp_path / "store").records.values()]
    assert statuses == ["failed", "aligned", "failed"]


def test_with_more_jobs_than_groups_some_have_nothing_to_do(photos: Path, whole: Path, tmp_path: Path) -> None:
    done = [_align(photos, tmp_path / "store", f"{index}/9") for index in reversed(range(9))]
    assert done[:3] == [0, 0, 0]
    assert done[3:] == [3, *(5 * [BATCH])]
    assert contents(tmp_path / "store") == contents(whole)


def test_jobs_at_the_same_time_of_which_one_is_killed_and_continued(photos: Path, whole: Path, tmp_path: Path) -> None:
    first, second = (_start(photos, tmp_path / "store", f"{index}/2") for index in range(2))
    killed = tmp_path / "store" / "journal-00001-of-00002.jsonl"
    end = time.monotonic() + 60
    while not killed.is_file() or not killed.stat().st_size:
        assert time.monotonic() < end
        time.sleep(0.01)
    second.kill_group()
    assert first.wait(timeout=120) == 0
    with pytest.raises(FacegmError, match=r"is not at its end; run `facegm align` again as before, and each --shard"):
        _ = NamedFaces(tmp_path / "store").records
    assert _start(photos, tmp_path / "store", "1/2").wait(timeout=120) == 0
    assert contents(tmp_path / "store") == contents(whole)


def _start(photos: Path, store: Path, shard: str) -> Alignment:
    return Alignment([str(photos), "--output", str(store), "--workers=1", f"--shard={shard}"], store.parent)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("shard", ["2/2", "0/0", "-1/2", "1", "a/b", "1/2/3", "0/100000", "", "1.5/2", "0/2\n"])
def test_a_shard_that_makes_no_sense_is_wrong_usage(
    photos: Path, tmp_path: Path, shard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["align", str(photos), "--output", str(tmp_path / "store"), f"--shard={shard}"]) == 2
    assert "facegm align: shard: " in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("begun", "asked", "message"),
    [
        ("0/2", "0/3", "begun by jobs with --shard I/2; go on with those"),
        ("0/2", None, "begun by jobs with --shard I/2; go on with those"),
    ],
)
def test_an_unfinished_store_is_gone_on_with_in_as_many_jobs_as_it_was_begun(
    photos: Path, tmp_path: Path, begun: str, asked: str | None, message: str
) -> None:
    """Protects from doing everything again, in another division; see also the tests of the store's writer."""

    def align(shard: str | None) -> None:
        config = AlignConfig(is_aligned=True, shard=None if shard is None else Shard.parse(shard))
        align_photos(photos, tmp_path / "store", config)

    align(begun)
    before = contents(tmp_path / "store")
    with pytest.raises(FacegmError, match=message):
        align(asked)
    assert contents(tmp_path / "store") == before


def test_a_finished_store_is_gone_on_with_in_any_number_of_jobs(photos: Path, whole: Path, tmp_path: Path) -> None:
    for shard in ("0/2", "1/2", "2/3", "1/3", "0/3"):
        _align(photos, tmp_path / "store", shard)
    align_photos(photos, tmp_path / "store", AlignConfig())
    assert contents(tmp_path / "store") == contents(whole)


def test_of_jobs_that_begin_together_the_first_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a store from two settings: another job begins it after this one has looked and found none."""
    folder = tmp_path / "store"

    def begin_in_between(path: Path, data: bytes) -> None:
        monkeypatch.undo()
        begin_store(folder, settings | {"on_missing": "center-crop"})
        create_atomically(path, data)

    settings = {"on_missing": "skip", "encoding": "png", "container": "folder"}
    monkeypatch.setattr("facegm.store.format.create_atomically", begin_in_between)
    with pytest.raises(FacegmError, match=r"made otherwise \(on_missing: center-crop, now skip"):
        begin_store(folder, settings)
    assert [path.name for path in folder.iterdir()] == [SETTINGS_FILE]


def test_what_a_job_killed_at_its_beginning_left_is_gone_in_the_end(photos: Path, whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / f".{SETTINGS_FILE}.00000-of-00002.partial").write_bytes(b"{")
    for shard in ("1/2", "0/2"):
        _align(photos, store, shard)
    assert contents(store) == contents(whole)
