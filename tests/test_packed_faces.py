"""Protects faces packed into tar files: any tar reads them, no kill loses or halves one, bytes are the same."""

import io
import json
import os
import re
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.align.config import AlignConfig
from facegm.align.growing_store import GrowingStore
from facegm.align.timings import TIMINGS_FILE
from facegm.align.worker import Result
from facegm.data.face_files import FaceWriter, StoreFormat, append_faces, face_path, open_faces
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError
from facegm.store.format import MANIFEST_FILE, SETTINGS_FILE, FaceRecord, FaceStore, encode_face

PACKED = StoreFormat(container="tar")
TAR, INDEX = "faces/00000.tar", "faces/00000.idx"
ODD_KEYS = [
    "Ann/é.jpg",
    "Ann/new\nline.jpg",
    os.fsdecode(b"Ann/\xe9\xff.jpg"),
    "n" * 300 + ".jpg",
    'quote".jpg',
    "a\\n",
]


def _faces(keys: Sequence[str], seed: int = 0) -> dict[str, bytes]:
    """Bytes that stand for pictures, of all lengths that matter to a format of blocks of 512."""
    rng = np.random.default_rng(seed)
    lengths = [0, 1, 511, 512, 513, 1300]
    return {key: rng.bytes(lengths[number % len(lengths)]) for number, key in enumerate(keys)}


def _write(writer: FaceWriter, faces: dict[str, bytes]) -> None:
    for key, data in faces.items():
        writer.append(key, data)
    writer.close()


def _pack(folder: Path, faces: dict[str, bytes], *, part: str = "00000", recorded: Sequence[str] = ()) -> None:
    _write(append_faces(folder, PACKED, recorded=recorded, part=part), faces)


def _content(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _archive_of_tarfile(faces: dict[str, bytes]) -> bytes:
    """What the standard library makes of the same members."""
    content = io.BytesIO()
    with tarfile.open(
        fileobj=content, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for key, data in faces.items():
            member = tarfile.TarInfo(key + ".png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


# ------------------------------------------------------------------------------------------------- the format


@settings(max_examples=60, deadline=None)
@given(
    faces=st.dictionaries(
        st.binary(min_size=1, max_size=120).map(lambda name: os.fsdecode(name.replace(b"\0", b"0"))),
        st.binary(max_size=1100),
        max_size=6,
    )
)
def test_whatever_the_names_faces_come_back_and_the_tar_is_that_of_the_standard_library(
    tmp_path_factory: pytest.TempPathFactory, faces: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    _pack(folder, faces)
    assert (folder / TAR).read_bytes() == _archive_of_tarfile(faces)
    reader = open_faces(folder, PACKED)
    assert {key: reader.read(key) for key in faces} == faces


def test_the_finished_tar_is_read_at_random_and_as_a_stream(tmp_path: Path) -> None:
    faces = _faces(ODD_KEYS)
    _pack(tmp_path, faces)
    for mode in ("r:", "r|"):  # WebDataset reads a stream
        with tarfile.open(tmp_path / TAR, mode, errors="surrogateescape") as tar:
            members = [(member, _content(tar, member)) for member in tar]
        assert {member.name.removesuffix(".png"): data for member, data in members} == faces
        assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m, _ in members} == {(0o644, 0, 0, 0, "", "")}


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
def test_tar_unpacks_a_part_to_the_files_of_a_store_that_keeps_one_file_a_face(tmp_path: Path) -> None:
    faces = _faces([*ODD_KEYS[:3], "/".join(["n" * 100] * 3) + ".jpg"])
    _pack(tmp_path / "packed", faces)
    (tmp_path / "faces").mkdir()
    done = subprocess.run(
        ["tar", "xf", tmp_path / "packed" / TAR, "-C", tmp_path / "faces"], capture_output=True, text=True, check=True
    )
    # What GNU tar says to a name that is no valid UTF-8; it takes the bytes as they are.
    assert done.stderr in ("", "tar: Ignoring unknown extended header keyword 'hdrcharset'\n")
    unpacked = {path: path.read_bytes() for path in (tmp_path / "faces").rglob("*.png")}
    assert unpacked == {face_path(tmp_path, key): data for key, data in faces.items()}


def test_the_index_says_in_ascii_json_where_the_bytes_lie(tmp_path: Path) -> None:
    faces = _faces(ODD_KEYS)
    _pack(tmp_path, faces)
    tar = (tmp_path / TAR).read_bytes()
    index = (tmp_path / INDEX).read_bytes()
    entries = [json.loads(line) for line in index.decode("ascii").splitlines()]
    assert [(e["key"], tar[e["offset"] : e["offset"] + e["length"]]) for e in entries] == list(faces.items())
    assert index.startswith(b'{"key":"Ann/\\u00e9.jpg","offset":1536,"length":0}\n')


def test_a_store_without_faces_is_an_empty_archive(tmp_path: Path) -> None:
    _pack(tmp_path, {})
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile({})
    assert (tmp_path / INDEX).read_bytes() == b""


# ------------------------------------------------------------------------------------------------- going on


class _Kill(NamedTuple):
    """How much of each file there is after a kill."""

    tar_size: int
    index_size: int
    recorded: int


def _member_end(line: bytes) -> int:
    entry = json.loads(line)
    return int(entry["offset"] + -(-entry["length"] // 512) * 512)


def _kills(folder: Path) -> Iterator[_Kill]:
    """Every byte at which writing may end: member, line of the index, line of the manifest; last the end blocks."""
    tar = index = recorded = 0
    for line in (folder / INDEX).read_bytes().splitlines(keepends=True):
        end = _member_end(line)
        yield from (_Kill(size, index, recorded) for size in range(tar, end))
        yield from (_Kill(end, index + size, recorded) for size in range(len(line)))
        tar, index, recorded = end, index + len(line), recorded + 1
        yield _Kill(tar, index, recorded - 1)
    yield from (_Kill(size, index, recorded) for size in range(tar, (folder / TAR).stat().st_size + 1, 64))


def test_killed_at_any_byte_and_gone_on_with_the_files_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    faces = _faces(["Ann/1.jpg", "b\n" * 40, "c.jpg"], seed=1)
    _pack(tmp_path, faces)
    tar, index, keys = (tmp_path / TAR).read_bytes(), (tmp_path / INDEX).read_bytes(), list(faces)
    ends = [0, *(_member_end(line) for line in index.splitlines())]
    kills = list(_kills(tmp_path))
    assert len(kills) > 2500
    for kill in kills:
        (tmp_path / TAR).write_bytes(tar[: kill.tar_size])
        (tmp_path / INDEX).write_bytes(index[: kill.index_size])

        reader = open_faces(tmp_path, PACKED)
        for key in keys[: index[: kill.index_size].count(b"\n")]:
            assert reader.read(key) == faces[key]

        writer = append_faces(tmp_path, PACKED, recorded=keys[: kill.recorded])
        assert not writer.lost
        assert (tmp_path / TAR).read_bytes() == tar[: ends[kill.recorded]]
        _write(writer, {key: faces[key] for key in keys[kill.recorded :]})
        assert ((tmp_path / TAR).read_bytes(), (tmp_path / INDEX).read_bytes()) == (tar, index), kill


@pytest.mark.parametrize("before", range(7))
def test_a_finished_tar_is_appended_to_as_if_it_had_never_been_finished(tmp_path: Path, before: int) -> None:
    faces = _faces(ODD_KEYS)
    first, rest = ODD_KEYS[:before], ODD_KEYS[before:]
    _pack(tmp_path, {key: faces[key] for key in first})
    _pack(tmp_path, {key: faces[key] for key in rest}, recorded=first)
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile(faces)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_after_a_power_cut_what_is_lost_is_said_and_the_rest_is_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "power-cut"
    shutil.rmtree(folder, ignore_errors=True)
    faces = _faces([f"{number}.jpg" for number in range(6)])
    _pack(folder, faces)
    for name in (TAR, INDEX):  # the disk may hold more of any file than of the others
        os.truncate(folder / name, data.draw(st.integers(0, (folder / name).stat().st_size), label=name))
    recorded = list(faces)[: data.draw(st.integers(0, 6), label="recorded")]

    writer = append_faces(folder, PACKED, recorded=recorded)
    reader = open_faces(folder, PACKED)
    assert {key: reader.read(key) for key in recorded if key not in writer.lost}.items() <= faces.items()
    _write(writer, {key: face for key, face in faces.items() if key in writer.lost or key not in recorded})
    reader = open_faces(folder, PACKED)
    assert {key: reader.read(key) for key in faces} == faces
    with tarfile.open(folder / TAR) as tar:
        assert sorted(tar.getnames()) == [f"{key}.png" for key in faces]


def test_a_face_whose_record_was_taken_out_of_the_manifest_is_superseded(tmp_path: Path) -> None:
    _pack(tmp_path, {"a": b"1", "b": b"2", "c": b"3"})
    _pack(tmp_path, {"b": b"new"}, recorded=["a", "c"])
    reader = open_faces(tmp_path, PACKED)
    assert [reader.read(key) for key in "abc"] == [b"1", b"new", b"3"]
    with tarfile.open(tmp_path / TAR) as tar:
        assert tar.getnames() == ["a.png", "b.png", "c.png", "b.png"]
        assert _content(tar, "b.png") == b"new"


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("part", ["tar", "index"])
def test_what_did_not_fit_on_the_disk_is_cut_off_and_can_be_tried_again(tmp_path: Path, part: str, again: bool) -> None:
    # Escaped in the index, such a key takes six times the room that it takes in the tar.
    key, data = ("b", b"2" * 40_000) if part == "tar" else (os.fsdecode(b"\xff" * 3000), b"2")
    writer = append_faces(tmp_path, PACKED, recorded=())
    writer.append("a", b"1" * 600)
    with _largest_file(15_000), pytest.raises(OSError, match="too large"):
        writer.append(key, data)
    assert (tmp_path / (TAR if part == "tar" else INDEX)).stat().st_size == 15_000
    if again:
        writer.append(key, data)
    writer.close()
    expected = {"a": b"1" * 600} | ({key: data} if again else {})
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile(expected)
    assert [json.loads(line)["key"] for line in (tmp_path / INDEX).read_text().splitlines()] == list(expected)


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ------------------------------------------------------------------------------------------------- parts


def test_each_job_writes_a_part_and_all_are_read(tmp_path: Path) -> None:
    faces = _faces([f"{number}.jpg" for number in range(9)])
    parts = {"00000": list(faces)[:4], "00003": list(faces)[4:5], "00012": list(faces)[5:]}
    writers = {part: append_faces(tmp_path, PACKED, recorded=(), part=part) for part in parts}
    for part, keys in parts.items():
        _write(writers[part], {key: faces[key] for key in keys})
    reader = open_faces(tmp_path, PACKED)
    assert {key: reader.read(key) for key in faces} == faces

    writer = append_faces(tmp_path, PACKED, recorded=[*faces, "gone.jpg"], part="00003")
    assert set(writer.lost) == {"gone.jpg"}  # what other parts hold is not lost
    writer.close()
    assert [json.loads(line)["key"] for line in (tmp_path / "faces/00003.idx").read_text().splitlines()] == ["4.jpg"]


def test_two_processes_cannot_write_the_same_part(tmp_path: Path) -> None:
    writer = append_faces(tmp_path, PACKED, recorded=())
    writer.append("a", b"1")
    with pytest.raises(FacegmError, match=r"00000\.tar: another process is writing it; wait"):
        append_faces(tmp_path, PACKED, recorded=())
    _write(writer, {"b": b"2"})
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile({"a": b"1", "b": b"2"})


# ------------------------------------------------------------------------------------------------- damage


def test_faces_are_not_thrown_away_because_their_index_is_missing(tmp_path: Path) -> None:
    _pack(tmp_path, {"a": b"1"})
    (tmp_path / INDEX).unlink()
    with pytest.raises(FacegmError, match=r"00000\.idx: missing; bring it back, or delete"):
        append_faces(tmp_path, PACKED, recorded=["a"])
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile({"a": b"1"})


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"key":"k"}', b'{"key":"k","offset":1,"length":2,"x":3}', b"\xff"]
)
def test_a_damaged_line_of_an_index_is_named(tmp_path: Path, line: bytes) -> None:
    _pack(tmp_path, {"a": b"1", "b": b"2"})
    with (tmp_path / INDEX).open("ab") as index:
        index.write(line + b"\n")
    for use in (lambda: open_faces(tmp_path, PACKED), lambda: append_faces(tmp_path, PACKED, recorded=["a", "b"])):
        with pytest.raises(FacegmError, match=r"00000\.idx, line 3: damaged"):
            use()


# ------------------------------------------------------------------------------------------------- alignment


def _photos(keys: Sequence[str]) -> list[Photo]:
    return [Photo(path=key, key=key, identity="x") for key in sorted(keys, key=os.fsencode)]


KEYS = ["Ann/1.jpg", "Ann/2.jpg", "bad.jpg", "unreadable.jpg", "x" * 260 + ".jpg"]


def _grow(folder: Path, store_format: StoreFormat = PACKED) -> list[str]:
    """Align, with random pixels for faces; returns the keys of the photos that were looked at."""
    groups = [[photo] for photo in _photos(KEYS)]
    with GrowingStore(folder, Path("photos"), groups, AlignConfig(store_format=store_format)) as store:
        for (photo,) in store.waiting:
            store.add([Result(*_record_and_face(photo, store_format))])
    return [photo.key for (photo,) in store.waiting]


def _record_and_face(photo: Photo, store_format: StoreFormat) -> tuple[FaceRecord, bytes | None]:
    if photo.key in ("bad.jpg", "unreadable.jpg"):
        faces = 0 if photo.key == "bad.jpg" else None
        return FaceRecord(key=photo.key, identity="x", status="failed", reason="a test", faces=faces), None
    small = np.full((128, 128, 3), KEYS.index(photo.key), np.uint8)
    return FaceRecord(key=photo.key, identity="x", status="aligned", faces=1), encode_face(small, store_format.encoding)


def _contents(folder: Path) -> dict[str, bytes]:
    """All files but the timings, which no two runs share."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != TIMINGS_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_alignment_killed_anywhere_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, store = tmp_path / "whole", tmp_path / "killed"
    _grow(whole)
    expected = _contents(whole)
    assert set(expected) == {SETTINGS_FILE, MANIFEST_FILE, TAR, INDEX}
    lines = [line + b"\n" for line in expected[MANIFEST_FILE].splitlines()]
    with_face = [number for number, line in enumerate(lines) if b"aligned" in line]
    for kill in list(_kills(whole))[::41]:
        before = with_face[kill.recorded] if kill.recorded < len(with_face) else len(lines)
        for torn in (b"", lines[before][:20] if before < len(lines) else b""):
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(whole, store)
            os.truncate(store / TAR, kill.tar_size)
            os.truncate(store / INDEX, kill.index_size)
            (store / MANIFEST_FILE).write_bytes(b"".join(lines[:before]) + torn)
            _grow(store)
            assert _contents(store) == expected, kill


def test_only_lost_and_unreadable_photos_are_aligned_again(tmp_path: Path) -> None:
    _grow(tmp_path)
    expected = _contents(tmp_path)
    assert _grow(tmp_path) == ["unreadable.jpg"]
    index = (tmp_path / INDEX).read_bytes()
    os.truncate(tmp_path / INDEX, index.index(b"\n", index.index(b"\n") + 1) + 5)
    assert _grow(tmp_path) == ["unreadable.jpg", KEYS[-1]]
    assert _contents(tmp_path) == expected


@pytest.mark.parametrize("container", ["tar", "folder"])
def test_a_name_too_long_for_a_file_has_room_in_a_tar(tmp_path: Path, container: str) -> None:
    _grow(tmp_path, StoreFormat(encoding="jpeg", container=container))  # type: ignore[arg-type]
    store = FaceStore(tmp_path)
    assert (store.settings["encoding"], store.settings["container"]) == ("jpeg", container)
    record = store.records[KEYS[-1]]
    if container == "folder":
        assert (record.status, record.reason) == ("failed", "file name too long for the store")
    else:
        assert record.status == "aligned"
        np.testing.assert_array_equal(store.read_face(KEYS[-1]), np.full((128, 128, 3), 4, np.uint8))


def test_a_store_is_not_continued_in_another_format(tmp_path: Path) -> None:
    _grow(tmp_path)
    for other, change in {
        StoreFormat(): "container: tar, now folder",
        StoreFormat(encoding="jpeg", container="tar"): "encoding: png, now jpeg",
    }.items():
        with pytest.raises(FacegmError, match=re.escape(f"this store was made otherwise ({change})")):
            _grow(tmp_path, other)


def test_a_store_of_before_there_were_formats_is_continued_as_png_files(tmp_path: Path) -> None:
    _grow(tmp_path, StoreFormat())
    settings_file = tmp_path / SETTINGS_FILE
    old = {k: v for k, v in json.loads(settings_file.read_text()).items() if k not in ("encoding", "container")}
    settings_file.write_text(json.dumps(old))
    (tmp_path / MANIFEST_FILE).write_text("")
    assert len(_grow(tmp_path, StoreFormat())) == len(KEYS)
    with pytest.raises(FacegmError, match="container: folder, now tar"):
        _grow(tmp_path, PACKED)
