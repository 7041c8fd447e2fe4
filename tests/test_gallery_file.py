"""A gallery's file in use: shared by threads, locked by another process, on a full disk, killed while it is made."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import CONTRACT, drawn, new_gallery

from facegm.errors import FacegmError
from facegm.gallery import database as database_module
from facegm.gallery.database import Database
from facegm.gallery.enrolment import NewSample
from facegm.gallery.file import GalleryFile
from facegm.gallery.gallery import Gallery


def test_threads_share_a_gallery(tmp_path: Path) -> None:
    """Half of them enrol, half search; each finds afterwards what it has enrolled."""
    with new_gallery(tmp_path) as gallery:

        def work(number: int) -> None:
            for call in range(10):
                if number % 2:
                    gallery.enroll(f"person {number}", drawn(100 * number + call, 2), strict=False)
                else:
                    gallery.search(drawn(number, 3), k=2)

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6)))
        assert gallery.people == {f"person {number}": 20 for number in (1, 3, 5)}
        for number in (1, 3, 5):
            for call in range(10):
                found = gallery.search(drawn(100 * number + call, 2), k=1)
                assert [(match.name, match.distance) for (match,) in found] == [(f"person {number}", 0.0)] * 2


def test_a_process_that_writes_for_ever_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "PATIENCE", 0.1)
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0))
        other = sqlite3.connect(tmp_path / "people.gallery", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FacegmError, match=r"people\.gallery: another process has been writing"):
            gallery.enroll("Bob", drawn(1))
        assert gallery.search(drawn(0))[0][0].name == "Ann", "reading goes on"
        other.execute("ROLLBACK")
        other.close()
        gallery.enroll("Bob", drawn(1))
        assert gallery.people == {"Ann": 1, "Bob": 1}


@pytest.mark.parametrize("change", ["enroll", "remove", "rename", "merge"])
def test_a_thread_that_waits_for_another_process_holds_no_search_up(change: str, tmp_path: Path) -> None:
    with new_gallery(tmp_path) as gallery, ThreadPoolExecutor(3) as threads:
        gallery.enroll("Ann", drawn(0))
        gallery.enroll("Bob", drawn(1))
        changes: dict[str, Callable[[], object]] = {
            "enroll": lambda: gallery.enroll("Cy", drawn(2)),
            "remove": lambda: gallery.remove("Bob"),
            "rename": lambda: gallery.rename("Bob", "Cy"),
            "merge": lambda: gallery.merge("Bob", "Ann"),
        }
        other = sqlite3.connect(tmp_path / "people.gallery", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        changed = threads.submit(changes[change])
        try:
            with pytest.raises(FutureTimeoutError):
                changed.result(timeout=0.2)
            found = threads.submit(gallery.search, drawn(0), k=1).result(timeout=5)
            assert found[0][0].name == "Ann"
            assert threads.submit(lambda: gallery.people).result(timeout=5) == {"Ann": 1, "Bob": 1}
        finally:
            other.execute("ROLLBACK")
            other.close()
        changed.result(timeout=20)
        assert gallery.people != {"Ann": 1, "Bob": 1}


def test_a_search_meanwhile_sees_nothing_that_is_not_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More is written than SQLite holds back by itself; the last sample fails, so that none of them ever counts."""
    halfway, searched, add = threading.Event(), threading.Event(), GalleryFile.add

    def last_fails(self: GalleryFile, name: str, *arguments: Any, **options: Any) -> int:
        if name == "Cy":
            halfway.set()
            assert searched.wait(20)
            raise FacegmError("no more")
        return add(self, name, *arguments, **options)

    with new_gallery(tmp_path) as gallery, ThreadPoolExecutor(1) as threads:
        gallery.enroll("Ann", drawn(0))
        samples = [NewSample(name="Bob", embedding=vector, source="x" * 8000) for vector in drawn(1, 600)]
        with monkeypatch.context() as broken:
            broken.setattr(GalleryFile, "add", last_fails)
            cy = NewSample(name="Cy", embedding=drawn(2)[0])
            enrolled = threads.submit(gallery.enroll_all, [*samples, cy], strict=False)
            assert halfway.wait(20)
            try:
                assert [match.name for match in gallery.search(drawn(1))[0]] == ["Ann"]
                assert gallery.people == {"Ann": 1}
            finally:
                searched.set()
            with pytest.raises(FacegmError, match="no more"):
                enrolled.result(timeout=20)
        assert gallery.people == {"Ann": 1}
        gallery.enroll("Bob", drawn(3), strict=False)
        (match,) = gallery.search(drawn(3), k=1)[0]
        assert (match.name, match.distance) == ("Bob", 0.0)


def test_another_gallery_in_the_files_place_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    new_gallery(tmp_path / "other").close()
    with new_gallery(tmp_path) as gallery:
        (tmp_path / "other" / "people.gallery").replace(tmp_path / "people.gallery")
        with pytest.raises(FacegmError, match=r"people\.gallery: another gallery than was opened"):
            gallery.enroll("Ann", drawn(0))


def test_a_full_disk_takes_back_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    new_gallery(tmp_path).close()
    database = Database(path, CONTRACT, is_created=False)
    gallery = Gallery.open(path)
    gallery.enroll("Ann", drawn(0, 10), strict=False)
    ((pages,),) = database.query("PRAGMA page_count")
    with monkeypatch.context() as full:  # SQLite's own limit, a connection's, answers as a full disk does
        full.setattr(database_module, "SETTINGS", (*database_module.SETTINGS, f"max_page_count={pages + 1}"))
        with pytest.raises(FacegmError, match=r"people\.gallery: database or disk is full"):
            gallery.enroll("Bob", drawn(1, 600), strict=False)
    assert gallery.people == {"Ann": 10}
    assert database.query("PRAGMA integrity_check") == [("ok",)]
    gallery.enroll("Bob", drawn(1, 600), strict=False)
    assert gallery.people == {"Ann": 10, "Bob": 600}
    np.testing.assert_allclose([matches[0].distance for matches in gallery.search(drawn(1, 600)[:5])], 0.0)
    gallery.close()
    database.close()


def test_a_file_that_a_kill_left_empty_becomes_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "people.gallery").touch()
    with pytest.raises(FacegmError, match="not a gallery"):
        Gallery.open(tmp_path / "people.gallery")
    with new_gallery(tmp_path) as gallery:
        gallery.enroll("Ann", drawn(0))
        assert gallery.people == {"Ann": 1}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"nowhere/people\.gallery: unable to open database file"):
        new_gallery(tmp_path / "nowhere")


def test_a_gallery_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    new_gallery(tmp_path).close()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version=2")
    later.close()
    with pytest.raises(FacegmError, match="a gallery of format 2; this facegm reads format 1"):
        Gallery.open(path)
