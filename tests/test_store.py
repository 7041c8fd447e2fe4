"""Protects the store of aligned faces: pictures and records come back exactly, damage is named, no file is half."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.files import atomic_file, replace_atomically
from facegm.data.store import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    FaceRecord,
    FaceStore,
    encode_face,
    encode_record,
    face_path,
    is_store,
    read_manifest,
    read_settings,
    write_face,
)
from facegm.errors import FacegmError


def _make_store(folder: Path, *, size: int = 16, records: tuple[FaceRecord, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps({"format": 1, "size": size}))
    (folder / MANIFEST_FILE).write_text("".join(encode_record(record) for record in records), encoding="ascii")
    return folder


def _face(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- pictures


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 130), smooth=st.booleans())
def test_faces_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, smooth: bool) -> None:
    store = _make_store(tmp_path_factory.getbasetemp() / "store", size=size)
    face = np.add.outer(np.arange(size), np.arange(3 * size)).reshape(size, size, 3).astype(np.uint8)
    face = face if smooth else _face(seed, size)
    write_face(store, "Ann/a.jpg", encode_face(face))
    np.testing.assert_array_equal(FaceStore(store).read_face("Ann/a.jpg"), face)


def test_the_stored_picture_is_an_ordinary_rgb_png(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store")
    write_face(store, "Ann/a.jpg", encode_face(_face(0)))
    with Image.open(store / "faces/Ann/a.jpg.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), _face(0))


def test_photos_that_differ_in_their_suffix_alone_do_not_collide(tmp_path: Path) -> None:
    keys = ["a.jpg", "a.png", "a", "a.jpg.png"]
    assert len({face_path(tmp_path, key) for key in keys}) == len(keys)


def _damaged(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    small = encode_face(_face(1, 15))
    return {
        "empty": b"",
        "head": whole[:40],
        "half": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "small": small,
    }


@pytest.mark.parametrize("damage", ["missing", "folder", *_damaged(b"0" * 80)])
def test_missing_and_damaged_pictures_are_named(tmp_path: Path, damage: str) -> None:
    store = _make_store(tmp_path / "store")
    path = face_path(store, "Ann/a.jpg")
    if damage == "folder":
        path.mkdir(parents=True)
    elif damage != "missing":
        write_face(store, "Ann/a.jpg", _damaged(encode_face(_face(0)))[damage])
    with pytest.raises(FacegmError, match=r"faces/Ann/a\.jpg\.png: missing or damaged"):
        FaceStore(store).read_face("Ann/a.jpg")


def test_a_picture_of_another_shape_is_not_taken_for_a_face(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store")
    write_face(store, "k", cv2.imencode(".png", np.zeros((16, 17, 3), np.uint8))[1].tobytes())
    with pytest.raises(FacegmError, match="damaged"):
        FaceStore(store).read_face("k")


# ------------------------------------------------------------------------------------------------- manifest


_NAMES = st.binary(min_size=1, max_size=20).map(os.fsdecode)  # every file name there is: surrogates, newlines, quotes
_NUMBERS = st.floats(-1e4, 1e4).map(lambda value: round(value, 3))
_RECORDS = st.builds(
    FaceRecord,
    key=_NAMES,
    identity=_NAMES,
    status=st.sampled_from(["aligned", "center-crop", "failed"]),
    reason=st.none() | _NAMES,
    box=st.none() | st.lists(_NUMBERS, min_size=4, max_size=4),
    landmarks=st.none() | st.lists(st.lists(_NUMBERS, min_size=2, max_size=2), min_size=5, max_size=5),
    probability=st.none() | st.floats(0, 1),
    faces=st.none() | st.integers(0, 99),
    residual=st.none() | _NUMBERS,
    profile=st.none() | _NUMBERS,
    sharpness=st.none() | _NUMBERS,
    contrast=st.none() | _NUMBERS,
    digest=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    perceptual_hash=st.none() | st.binary(min_size=8, max_size=8).map(bytes.hex),
)


@settings(max_examples=100, deadline=None)
@given(records=st.lists(_RECORDS, max_size=5, unique_by=lambda record: record.key))
def test_records_come_back_exactly_in_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[FaceRecord]
) -> None:
    store = _make_store(tmp_path_factory.getbasetemp() / "store", records=tuple(records))
    content = (store / MANIFEST_FILE).read_bytes()
    assert content.isascii()
    assert content.count(b"\n") == len(records)
    assert list(FaceStore(store).records.items()) == [(record.key, record) for record in records]


def test_a_line_of_the_manifest_is_compact_ascii_json() -> None:
    record = FaceRecord(key="Ann/é\udce9\n.jpg", identity="Ann", status="failed", reason="empty file")
    line = encode_record(record)
    assert line == '{"key":"Ann/\\u00e9\\udce9\\n.jpg","identity":"Ann","status":"failed","reason":"empty file"}\n'


def test_only_failed_photos_have_no_picture() -> None:
    have = {status: FaceRecord(key="k", identity="i", status=status).has_face_image for status in _STATUSES}
    assert have == {"aligned": True, "center-crop": True, "failed": False}


_STATUSES = ["aligned", "center-crop", "failed"]
_LINES = tuple(FaceRecord(key=f"Ann/{n}.jpg", identity="Ann", status="aligned", box=[0, 1, 2, 3]) for n in range(3))


def test_wherever_the_last_line_is_torn_the_others_are_read(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store", records=_LINES)
    manifest = store / MANIFEST_FILE
    whole = manifest.read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    for cut in range(len(whole) + 1):
        complete = sum(end <= cut for end in ends) - 1
        manifest.write_bytes(whole[:cut])
        assert list(read_manifest(manifest)) == list(_LINES[:complete])


def test_no_manifest_is_an_empty_one(tmp_path: Path) -> None:
    assert list(read_manifest(tmp_path / MANIFEST_FILE)) == []
    assert not (tmp_path / MANIFEST_FILE).exists()


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"3", b'{"key":"k"}', b'{"key":"k","identity":"i","status":"failed","colour":1}', b"\xff\xfe"],
)
def test_a_damaged_line_is_named_by_file_and_number(tmp_path: Path, line: bytes) -> None:
    store = _make_store(tmp_path / "store", records=_LINES)
    with (store / MANIFEST_FILE).open("ab") as lines:
        lines.write(line + b"\n" + encode_record(_LINES[0]).encode())
    with pytest.raises(FacegmError, match=r"store/manifest\.jsonl, line 4: damaged manifest"):
        _ = FaceStore(store).records


# ------------------------------------------------------------------------------------------------- settings


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    assert not is_store(tmp_path)
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FacegmError, match=r"not a store of aligned faces; make one by `facegm align"):
            FaceStore(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text('{"format": 2, "size": 16}')
    assert is_store(tmp_path)
    with pytest.raises(FacegmError, match=r"store\.json: store format 2, this facegm reads 1"):
        FaceStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"null", b'"format"', b"{}", b"\xff"])
def test_damaged_settings_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(FacegmError, match=r"store\.json: damaged"):
        read_settings(tmp_path)


def test_settings_come_back(tmp_path: Path) -> None:
    content: dict[str, Any] = {"format": 1, "size": 16, "color": "RGB", "template": [[1.5, 2.5]]}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(content))
    assert FaceStore(tmp_path).settings == content
    assert FaceStore(tmp_path).size == 16


# ------------------------------------------------------------------------------------------------- atomic files


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


def test_pictures_of_new_identities_make_their_folders(tmp_path: Path) -> None:
    write_face(tmp_path, "a/b/c.jpg", b"1")
    write_face(tmp_path, "a/b/c.jpg", b"2")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["faces/a/b/c.jpg.png"]
    assert face_path(tmp_path, "a/b/c.jpg").read_bytes() == b"2"
