"""Protects a store from several processes: one at a time, or shards in any order, which make that of one job."""

import itertools
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_runs import (
    BATCH,
    ODD_NAMES,
    SIZE,
    Run,
    StoppedError,
    bring_up_to_date,
    faces_expected,
    faces_of,
    killed_at_step,
    look_at,
    make_photos,
    photos_in,
    plain_names,
)
from stores import contents

from facegm.errors import FacegmError
from facegm.store.format import MANIFEST_FILE, SETTINGS_FILE
from facegm.store.journal import Journal, Shard, read_journal
from facegm.store.reader import FaceStore
from facegm.store.writer import StoreWriter

pytestmark = [
    pytest.mark.usefixtures("no_disk"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
both = pytest.mark.parametrize("container", ["folder", "tar"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", [*plain_names(22), *ODD_NAMES])


def _writer(store: Path, photos: Path, container: str, shard: str | None = None) -> StoreWriter:
    """A job that has begun, and has done one batch."""
    settings = {"source": "photos", "size": SIZE, "encoding": "png", "container": container}
    job = None if shard is None else Shard.parse(shard)
    writer = StoreWriter(store, photos_in(photos), settings, batch=BATCH, shard=job)
    writer.add([look_at(photo, "png") for photo in writer.waiting[0]])
    return writer


@contextmanager
def _another_process(store: Path, work: Callable[[], Any]) -> Iterator[int]:
    """A forked process that holds what `work` returns, until it is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held = work()  # noqa: F841
            os.write(write, b"1")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        assert os.read(read, 1) == b"1"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


# ------------------------------------------------------------------------------------------------- one job alone


@both
def test_a_second_process_at_work_is_refused_and_harms_nothing(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects journal and tar file from two that append to them; once one is killed, the other may go on."""
    store = tmp_path / "store"
    bring_up_to_date(tmp_path / "whole", photos, container)
    with _another_process(store, lambda: _writer(store, photos, container)):
        before = contents(store)
        with pytest.raises(FacegmError, match="another `facegm align` is at work on this store; wait for its end"):
            bring_up_to_date(store, photos, container)
        with pytest.raises(FacegmError, match="begun without --shard; go on without it"):
            bring_up_to_date(store, photos, container, shard="0/2")
        assert contents(store) == before
    run = bring_up_to_date(store, photos, container)
    assert len(run.looked_at) == len(photos_in(photos)) - BATCH
    assert contents(store) == contents(tmp_path / "whole")


def test_a_journal_that_its_owner_takes_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects lines from going into a file that has no name any more, where the other job ends in that moment."""
    first = Journal(tmp_path / "journal.jsonl")
    first.write([{"key": "a"}])
    opened: list[Any] = []

    def lock(file: Any, how: int) -> None:
        if not opened:
            first.remove()
        opened.append(file)

    monkeypatch.setattr("facegm.store.journal.fcntl.flock", lock)
    second = Journal(tmp_path / "journal.jsonl")
    second.write([{"key": "b"}])
    assert len(opened) == 2
    assert list(read_journal(tmp_path / "journal.jsonl")) == [[{"key": "b"}]]
    for journal in (first, second):
        journal.close()


@pytest.mark.parametrize("moment", [0, 1])
def test_none_begins_while_another_ends(
    tmp_path: Path, photos: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a job from reading a manifest and journals that do not belong together: it waits until both are new."""
    store, syncs, (read, write) = tmp_path / "store", itertools.count(), os.pipe()
    bring_up_to_date(store, photos, "tar", shard="0/2")
    child = os.fork()
    if child == 0:
        try:
            os.read(read, 1)
            os._exit(len(bring_up_to_date(store, photos, "tar", shard="0/2").looked_at))
        finally:
            os._exit(99)

    def let_the_other_begin() -> None:  # before the manifest is written, or after
        if next(syncs) == moment:
            os.write(write, b"1")
            time.sleep(0.3)

    monkeypatch.setattr(os, "sync", let_the_other_begin)
    bring_up_to_date(store, photos, "tar", shard="1/2")
    assert os.waitpid(child, 0)[1] == 0
    assert faces_of(store) == faces_expected(photos)
    assert not list(store.glob("journal*"))
    os.close(read)
    os.close(write)


# ------------------------------------------------------------------------------------------------- shards


@both
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_in_any_order_make_the_store_of_one_job(
    tmp_path: Path, photos: Path, container: str, order: tuple[int, ...]
) -> None:
    whole, store = tmp_path / "whole", tmp_path / "store"
    bring_up_to_date(whole, photos, container)
    keys = [photo.key for photo in photos_in(photos)]
    runs: dict[int, Run] = {}
    for index in order:
        assert not (store / MANIFEST_FILE).exists()
        if index != order[0]:
            with pytest.raises(
                FacegmError, match="is not at its end; run `facegm align` again as before, and each --shard"
            ):
                FaceStore(store)
        runs[index] = bring_up_to_date(store, photos, container, shard=f"{index}/3")
        assert runs[index].looked_at == [key for n, key in enumerate(keys) if n // BATCH % 3 == index]
    assert sum((run.statuses for run in runs.values()), start=runs[0].statuses - runs[0].statuses)["aligned"] == 23
    assert not list(store.glob("journal*"))
    assert not list(store.glob(".*"))
    assert faces_of(store) == faces_expected(photos)
    if container == "folder":
        assert contents(store) == contents(whole)
    else:
        assert {path.name for path in (store / "faces").iterdir()} == {f"0000{index}.tar" for index in range(3)}
        places = ["part", "offset"]
        tables = [FaceStore(folder).table().drop_columns(places).to_pylist() for folder in (store, whole)]
        assert tables[0] == tables[1]


@both
def test_shards_killed_at_any_step_end_like_undisturbed_ones(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects the end, above all: the manifest, and the journals of all jobs that go one after the other."""
    first, whole, store = tmp_path / "first", tmp_path / "whole", tmp_path / "store"
    bring_up_to_date(first, photos, container, shard="1/3")
    bring_up_to_date(first, photos, container, shard="0/3")
    shutil.copytree(first, whole)
    bring_up_to_date(whole, photos, container, shard="2/3")
    step = 0
    while True:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(first, store)
        if not killed_at_step(step, store, lambda: bring_up_to_date(store, photos, container, shard="2/3")):
            break
        bring_up_to_date(store, photos, container, shard=f"{2 if step % 2 else 1}/3")  # whichever is run again
        bring_up_to_date(store, photos, container, shard="2/3")
        assert contents(store) == contents(whole), f"step {step}"
        step += 1
    assert step > 10


@both
def test_a_shard_that_ends_while_another_is_at_work_leaves_the_end_to_it(
    tmp_path: Path, photos: Path, container: str
) -> None:
    store, first = tmp_path / "store", _writer(tmp_path / "store", photos, container, "0/2")
    bring_up_to_date(store, photos, container, shard="1/2")
    assert not (store / MANIFEST_FILE).exists()
    with pytest.raises(FacegmError, match="another `facegm align` is at work"):
        bring_up_to_date(store, photos, container, shard="0/2")
    with first:
        for group in first.waiting[1:]:
            first.add([look_at(photo, "png") for photo in group])
    assert faces_of(store) == faces_expected(photos)
    assert not list(store.glob("journal*"))


def test_two_shards_at_the_same_time_in_processes_of_their_own(tmp_path: Path, photos: Path) -> None:
    children = []
    for index in range(3):
        child = os.fork()
        if child == 0:
            try:
                bring_up_to_date(tmp_path / "store", photos, "tar", shard=f"{index}/3")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert faces_of(tmp_path / "store") == faces_expected(photos)
    assert not list((tmp_path / "store").glob("journal*"))


def test_a_store_is_gone_on_with_by_the_jobs_that_began_it_alone(tmp_path: Path, photos: Path) -> None:
    """Protects from doing everything twice, and from photos that two jobs do: other divisions are other photos."""
    store = tmp_path / "store"
    bring_up_to_date(store, photos, shard="0/2")
    before = contents(store)
    for shard in ("0/3", "1/4", None):
        with pytest.raises(FacegmError, match="begun by jobs with --shard I/2; go on with those"):
            bring_up_to_date(store, photos, shard=shard)
    assert contents(store) == before
    bring_up_to_date(store, photos, shard="1/2")
    assert bring_up_to_date(store, photos).looked_at == []  # at its end it belongs to all


@both
def test_other_jobs_follow_the_photos_of_a_finished_store(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects faces in tar files of other jobs, when the division is another one and photos come and go."""
    store = tmp_path / "store"
    for shard in ("0/3", "1/3", "2/3"):
        bring_up_to_date(store, photos, container, shard=shard)
    for name in plain_names(22)[3:10:2]:
        (photos / name).unlink()
    make_photos(photos, ["a/new.jpg", "z/new.jpg"])
    (photos / plain_names(22)[12]).write_bytes(b"changed")
    for shard in ("1/2", "0/2"):
        bring_up_to_date(store, photos, container, shard=shard)
    assert faces_of(store) == faces_expected(photos)
    (photos / plain_names(22)[14]).unlink()
    bring_up_to_date(store, photos, container)
    assert faces_of(store) == faces_expected(photos)
    pictured = {key for key, face in faces_of(store).items() if face}
    if container == "tar":
        members = []
        for path in sorted((store / "faces").glob("*.tar")):
            with tarfile.open(path, errors="surrogateescape") as tar:
                members += [name for name in tar.getnames() if name != ".removed"]
        assert sorted(members) == sorted(f"{key}.png" for key in pictured)
    else:
        assert {name for name in contents(store) if "/" in name} == {f"faces/{key}.png" for key in pictured}


@both
def test_empty_journals_do_not_stay_behind(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects readers from the warning that an alignment is not at its end."""
    store = tmp_path / "store"
    with pytest.raises(StoppedError):
        bring_up_to_date(store, photos, container, stop_after=0)
    assert not list(store.glob("journal*"))
    for shard in ("0/20", "19/20"):  # of which the second has nothing to do
        bring_up_to_date(store, photos, container, shard=shard)
    assert [path.name for path in store.glob("journal*")] == ["journal-00000-of-00020.jsonl"]


def test_what_a_job_killed_at_its_beginning_left_is_gone_in_the_end(tmp_path: Path, photos: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / f".{SETTINGS_FILE}.00000.partial").write_bytes(b"{")
    for shard in ("1/2", "0/2"):
        bring_up_to_date(store, photos, shard=shard)
    assert not list(store.glob(".*"))


# ------------------------------------------------------------------------------------------------- journals


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "2/2", "3/2", "0/0", "0/100000", "a/b", "0/2 "])
def test_a_shard_is_i_of_n(text: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)
    assert Shard.parse("3/12").name == "00003-of-00012"


@pytest.mark.parametrize("torn", [b"", b"\0" * 9, b"5e7a", b"00000000 [", b"\xff\n\n"])
def test_lines_come_back_and_torn_ones_are_passed_over(tmp_path: Path, torn: bytes) -> None:
    path, rows = tmp_path / "journal.jsonl", [{"key": "é\udcff\n", "n": number} for number in range(3)]
    for number in range(3):
        journal = Journal(path)
        journal.write(rows[: number + 1])
        journal.close()
        with path.open("ab") as file:
            file.write(torn)
    assert list(read_journal(path)) == [rows[:1], rows[:2], rows]
    content = path.read_bytes()
    for place in range(0, len(content), 5):  # a flipped bit takes its line, and no other
        path.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        found = list(read_journal(path))
        assert len(found) >= 2
        assert all(line in (rows[:1], rows[:2], rows) for line in found)
