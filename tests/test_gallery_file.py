"""A gallery's file in use: shared by threads, locked by another process, on a full disk, killed while it is made."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from galleries import CONTRACT, drawn, new_gallery

from facegm.errors import FacegmError
from facegm.gallery import database as database_module
from facegm.gallery.database import Database
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


def test_a_full_disk_takes_back_the_call(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    new_gallery(tmp_path).close()
    database = Database(path, CONTRACT, is_created=False)
    gallery = Gallery.open(path)
    gallery.enroll("Ann", drawn(0, 10), strict=False)
    # SQLite's own limit answers as a full disk does; it is a connection's, so that the gallery's has to be asked.
    connection = gallery._store._database  # type: ignore[attr-defined]
    ((pages,),) = connection.query("PRAGMA page_count")
    connection.query(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(FacegmError, match=r"people\.gallery: database or disk is full"):
        gallery.enroll("Bob", drawn(1, 600), strict=False)
    assert gallery.people == {"Ann": 10}
    assert database.query("PRAGMA integrity_check") == [("ok",)]
    connection.query("PRAGMA max_page_count=1000000")
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
