"""Protects files from being seen half-written, by whatever interruption."""

import os
from pathlib import Path

import pytest

from facegm.data.files import atomic_file, create_atomically, replace_atomically


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_appears_whole_and_only_at_the_end(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path, sync=sync) as file:
        file.write(b"new " * 10_000)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new " * 10_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interruption_leaves_the_folder_as_it_was(
    tmp_path: Path, before: bytes | None, interruption: type[BaseException]
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"half of")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == ({"file": before} if before else {})


def test_a_write_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        replace_atomically(tmp_path / "taken", b"content")
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]


def test_of_two_that_create_a_file_the_first_ones_stays_and_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects `store.json` from a power cut, without which a store of a million faces would not be one."""
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, os.fstat(file).st_size)))
    create_atomically(tmp_path / "file", b"first")
    create_atomically(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert ((tmp_path / "file").stat().st_ino, len(b"first")) in synced
