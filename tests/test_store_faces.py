"""Protects the containers of faces: any tar reads the packed ones, bytes depend on faces alone, none is half."""

import io
import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.store import faces as faces_module
from facegm.store.faces import FaceWriter, FolderWriter, TarWriter, member_ends, place_of
from facegm.store.format import StoreFormat, to_table

FOLDER, PACKED = StoreFormat(), StoreFormat(container="tar")
TAR = "faces/00000.tar"
ODD_KEYS = [
    "Ann/é.jpg",
    "Ann/new\nline.jpg",
    os.fsdecode(b"Ann/\xe9\xff.jpg"),
    "n" * 300 + ".jpg",
    'quote".jpg',
    "a\\n",
]


class Kept(NamedTuple):
    """A face in a store, and where it was said to lie."""

    key: str
    data: bytes
    part: str | None
    offset: int


def _faces(keys: Sequence[str], seed: int = 0) -> dict[str, bytes]:
    """Bytes that stand for pictures, of all lengths that matter to a format of blocks of 512."""
    rng = np.random.default_rng(seed)
    lengths = [0, 1, 511, 512, 513, 1300]
    return {key: rng.bytes(lengths[number % len(lengths)]) for number, key in enumerate(keys)}


def _append(writer: FaceWriter, faces: dict[str, bytes]) -> list[Kept]:
    kept = [Kept(key, data, *writer.append(key, data)) for key, data in faces.items()]
    writer.finish()
    return kept


def _pack(folder: Path, faces: dict[str, bytes], *, part: str = "00000", end: int = 0) -> list[Kept]:
    return _append(TarWriter(folder, PACKED, part, end), faces)


def _end(kept: Sequence[Kept]) -> int:
    offsets, lengths = ([face.offset for face in kept], [len(face.data) for face in kept])
    return int(member_ends(np.array(offsets), np.array(lengths)).max(initial=0))


def _read(folder: Path, kept: Sequence[Kept], store_format: StoreFormat = PACKED) -> list[bytes]:
    return [place_of(folder, store_format, face.key, face.part, face.offset, len(face.data)).read() for face in kept]


def _members(path: Path) -> list[tuple[str, bytes]]:
    """Names and contents, as the standard library reads them in a stream, which is what WebDataset does."""
    with tarfile.open(path, "r|", errors="surrogateescape") as tar:
        found = []
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found.append((member.name, file.read()))
        return found


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


# ------------------------------------------------------------------------------------------------- tar files


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
    kept = _pack(folder, faces)
    assert (folder / TAR).read_bytes() == _archive_of_tarfile(faces)
    assert _read(folder, kept) == list(faces.values())


def test_the_finished_tar_is_read_at_random_and_as_a_stream(tmp_path: Path) -> None:
    faces = _faces(ODD_KEYS)
    _pack(tmp_path, faces)
    assert _members(tmp_path / TAR) == [(f"{key}.png", data) for key, data in faces.items()]
    with tarfile.open(tmp_path / TAR, "r:", errors="surrogateescape") as tar:
        assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0o644, 0, 0, 0, "", "")}


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
def test_tar_unpacks_a_part_to_the_files_of_a_store_that_keeps_one_file_a_face(tmp_path: Path) -> None:
    faces = _faces([*ODD_KEYS[:3], "/".join(["n" * 100] * 3) + ".jpg"])
    _pack(tmp_path / "packed", faces)
    _append(FolderWriter(tmp_path / "folder", FOLDER), faces)
    (tmp_path / "unpacked").mkdir()
    done = subprocess.run(
        ["tar", "xf", tmp_path / "packed" / TAR, "-C", tmp_path / "unpacked"],
        capture_output=True,
        text=True,
        check=True,
    )
    # What GNU tar says to a name that is no valid UTF-8; it takes the bytes as they are.
    assert done.stderr in ("", "tar: Ignoring unknown extended header keyword 'hdrcharset'\n")
    unpacked, expected = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "unpacked", tmp_path / "folder/faces")
    )
    assert unpacked == expected


def test_a_store_without_faces_is_an_empty_archive(tmp_path: Path) -> None:
    assert _pack(tmp_path, {}) == []
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile({})


@pytest.mark.parametrize("before", range(7))
def test_a_finished_tar_is_appended_to_as_if_it_had_never_been_finished(tmp_path: Path, before: int) -> None:
    faces = _faces(ODD_KEYS)
    first, rest = ODD_KEYS[:before], ODD_KEYS[before:]
    end = _end(_pack(tmp_path, {key: faces[key] for key in first}))
    _pack(tmp_path, {key: faces[key] for key in rest}, end=end)
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile(faces)


def test_what_follows_the_last_face_that_counts_is_as_good_as_never_written(tmp_path: Path) -> None:
    faces = _faces(ODD_KEYS)
    end = _end(_pack(tmp_path, faces)[:2])
    _pack(tmp_path, {"new.jpg": b"new"}, end=end)
    expected = {key: faces[key] for key in ODD_KEYS[:2]} | {"new.jpg": b"new"}
    assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile(expected)


# ------------------------------------------------------------------------------------------------- faces taken out


def _take_out_all_but(folder: Path, left: Sequence[Kept]) -> None:
    writer = TarWriter(folder, PACKED, "00000", (folder / TAR).stat().st_size)
    writer.finish()
    rows = [{"key": f.key, "part": f.part, "offset": f.offset, "length": len(f.data)} for f in left]
    writer.discard([], to_table(rows[::-1]))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 2000), min_size=1, max_size=8),
    long_names=st.sets(st.integers(0, 7)),
    data=st.data(),
)
def test_faces_that_are_taken_out_are_zeros_and_the_archive_stays_readable(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], long_names: set[int], data: st.DataObject
) -> None:
    """Protects who asked to be removed: of the face nothing is left; several in a row and long headers are one gap."""
    folder = tmp_path_factory.mktemp("store")
    keys = [("ö" * 150 if number in long_names else "") + f"{number}.jpg" for number in range(len(lengths))]
    rng = np.random.default_rng(lengths)
    kept = _pack(
        folder, {key: rng.integers(1, 256, n, np.uint8).tobytes() for key, n in zip(keys, lengths, strict=True)}
    )
    gone = data.draw(st.sets(st.sampled_from(keys)), label="gone")
    left = [face for face in kept if face.key not in gone]
    for _ in range(2):  # the second time nothing is to be done
        _take_out_all_but(folder, left)
        content = (folder / TAR).read_bytes()
        assert len(content) == -(-(_end(left) + 1024) // 10240) * 10240
        assert _read(folder, left) == [face.data for face in left]
        members = _members(folder / TAR)
        assert [member for member in members if member[0] != ".removed"] == [(f"{f.key}.png", f.data) for f in left]
        assert not any(any(zeros) for name, zeros in members if name == ".removed")
        for face in kept:
            if face.key in gone:
                assert face.key.encode() not in content
                assert not len(face.data) > 8 or face.data not in content
    inner = kept[: kept.index(left[-1])] if left else []  # what follows is cut off
    gaps = sum(f.key in gone and (n == 0 or kept[n - 1].key not in gone) for n, f in enumerate(inner))
    assert [name for name, _ in members].count(".removed") == gaps


def test_a_large_gap_is_several_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects memory, and pictures of a part of which most is taken out."""
    monkeypatch.setattr(faces_module, "_LARGEST_REMOVED", 2048)
    kept = _pack(tmp_path, {f"{number}.jpg": bytes([number + 1]) * 700 for number in range(6)})
    _take_out_all_but(tmp_path, kept[5:])
    members = _members(tmp_path / TAR)
    assert members[-1] == ("5.jpg.png", kept[5].data)
    assert [(name, len(zeros), any(zeros)) for name, zeros in members[:-1]] == [
        *[(".removed", 1536, False)] * 3,
        (".removed", 5 * (512 + 1024) - 3 * 2048 - 512, False),
    ]


def test_blanking_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """Protects a gap whose header the first try did not reach, and one that was written before the zeros."""
    kept = _pack(tmp_path, {f"{number}.jpg": bytes([number + 1]) * 700 for number in range(4)})
    written: list[int] = []
    write = faces_module._write

    def stop_before_the_second(file: int, offset: int, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(offset)
        write(file, offset, data)

    faces_module._write = stop_before_the_second
    try:
        with pytest.raises(KeyboardInterrupt):
            _take_out_all_but(tmp_path, [kept[0], kept[3]])
    finally:
        faces_module._write = write
    assert _members(tmp_path / TAR)[0] == ("0.jpg.png", kept[0].data)
    assert _read(tmp_path, [kept[0], kept[3]]) == [kept[0].data, kept[3].data]
    _take_out_all_but(tmp_path, [kept[0], kept[3]])
    assert [name for name, _ in _members(tmp_path / TAR)] == ["0.jpg.png", ".removed", "3.jpg.png"]


def test_faces_are_taken_out_of_the_tar_files_of_all_jobs(tmp_path: Path) -> None:
    """Protects what only another job would append to: its last face, and a file all faces of which are gone."""
    faces = _faces([f"{number}.jpg" for number in range(9)], seed=3)
    parts = {"00000": list(faces)[:3], "00001": list(faces)[3:6], "00007": list(faces)[6:]}
    kept = {part: _pack(tmp_path, {key: faces[key] for key in keys}, part=part) for part, keys in parts.items()}
    left = [*kept["00000"], *kept["00001"][:2]]
    _take_out_all_but(tmp_path, left)
    assert _read(tmp_path, left) == [face.data for face in left]
    for part, number in (("00000", 3), ("00001", 2), ("00007", 0)):
        expected = {face.key: face.data for face in kept[part][:number]}
        assert (tmp_path / f"faces/{part}.tar").read_bytes() == _archive_of_tarfile(expected)


# ------------------------------------------------------------------------------------------------- files of their own


def test_files_make_their_folders_and_leave_none_that_is_empty(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path, FOLDER)
    faces = {"a/b/c.jpg": b"1", "a/b/d.jpg": b"2", "a/e.jpg": b"3"}
    kept = _append(writer, faces)
    assert [(face.part, face.offset) for face in kept] == [(None, 0)] * 3
    assert _read(tmp_path, kept, FOLDER) == [b"1", b"2", b"3"]
    writer.append("a/b/c.jpg", b"new")
    assert (tmp_path / "faces/a/b/c.jpg.png").read_bytes() == b"new"
    for _ in range(2):  # the second time, as after a kill, they are gone already
        writer.discard(["a/b/c.jpg", "a/b/d.jpg"], to_table([]))
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["faces/a/e.jpg.png"]
        assert not (tmp_path / "faces/a/b").exists()


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_photos_that_differ_in_their_suffix_alone_do_not_collide(
    tmp_path: Path, encoding: Literal["png", "jpeg"]
) -> None:
    keys = ["a.jpg", "a.png", "a", "a.jpg.png", "a.jpg.jpg"]
    writer = FolderWriter(tmp_path, StoreFormat(encoding=encoding))
    kept = _append(writer, {key: key.encode() for key in keys})
    assert _read(tmp_path, kept, StoreFormat(encoding=encoding)) == [key.encode() for key in keys]


def test_whether_a_face_is_whole_is_seen_without_reading_it(tmp_path: Path) -> None:
    kept = _pack(tmp_path, _faces(["a", "b", "c"]))
    places = [place_of(tmp_path, PACKED, face.key, face.part, face.offset, len(face.data)) for face in kept]
    assert all(place.is_whole() for place in places)
    os.truncate(tmp_path / TAR, kept[2].offset + 510)
    assert [place.is_whole() for place in places] == [True, True, False]
    assert not place_of(tmp_path, FOLDER, "missing", None, 0, 5).is_whole()


# ------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("container", ["folder", "tar"])
def test_what_did_not_fit_on_the_disk_is_cut_off_and_can_be_tried_again(
    tmp_path: Path, container: str, again: bool
) -> None:
    packs = container == "tar"
    writer: FaceWriter = TarWriter(tmp_path, PACKED, "00000", 0) if packs else FolderWriter(tmp_path, FOLDER)
    writer.append("a", b"1" * 600)
    with _largest_file(15_000), pytest.raises(OSError, match="too large"):
        writer.append("b", b"2" * 40_000)
    if packs:
        assert (tmp_path / TAR).stat().st_size == 15_000
    expected = {"a": b"1" * 600}
    if again:
        writer.append("b", b"2" * 40_000)
        expected["b"] = b"2" * 40_000
    writer.finish()
    if packs:
        assert (tmp_path / TAR).read_bytes() == _archive_of_tarfile(expected)
    else:
        found = {path.name: path.read_bytes() for path in (tmp_path / "faces").iterdir()}
        assert found == {f"{key}.png": data for key, data in expected.items()}


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
