"""Protects the store of aligned faces: pictures and records come back exactly, damage is named, no file is half."""

import io
import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from facegm.data.files import atomic_file, replace_atomically
from facegm.errors import FacegmError
from facegm.store.format import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    FaceRecord,
    FaceStore,
    StoreFormat,
    append_faces,
    encode_face,
    encode_record,
    face_path,
    is_store,
    read_manifest,
    read_settings,
)

FORMATS = {
    "png": DEFAULT_FORMAT,
    "jpeg": StoreFormat(encoding="jpeg"),
    "packed png": StoreFormat(container="tar"),
    "packed jpeg": StoreFormat(encoding="jpeg", container="tar"),
}
all_formats = pytest.mark.parametrize("store_format", FORMATS.values(), ids=list(FORMATS))


def _make_store(
    folder: Path,
    *,
    size: int = 16,
    records: tuple[FaceRecord, ...] = (),
    store_format: StoreFormat = DEFAULT_FORMAT,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps({"format": 1, "size": size, **asdict(store_format)}))
    (folder / MANIFEST_FILE).write_text("".join(encode_record(record) for record in records), encoding="ascii")
    return folder


def _keep(folder: Path, faces: dict[str, bytes], store_format: StoreFormat = DEFAULT_FORMAT) -> None:
    writer = append_faces(folder, store_format, recorded=())
    for key, data in faces.items():
        writer.append(key, data)
    writer.close()


def _face(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("container", ["folder", "tar"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 130), smooth=st.booleans())
def test_faces_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, container: Any, seed: int, size: int, smooth: bool
) -> None:
    store_format = StoreFormat(container=container)
    store = _make_store(tmp_path_factory.getbasetemp() / container, size=size, store_format=store_format)
    face = np.add.outer(np.arange(size), np.arange(3 * size)).reshape(size, size, 3).astype(np.uint8)
    face = face if smooth else _face(seed, size)
    _keep(store, {"Ann/a.jpg": encode_face(face)}, store_format)
    np.testing.assert_array_equal(FaceStore(store).read_face("Ann/a.jpg"), face)


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_jpeg_faces_come_back_nearly(tmp_path: Path, container: Any) -> None:
    store_format = StoreFormat(encoding="jpeg", container=container)
    store = _make_store(tmp_path / "store", size=128, store_format=store_format)
    face = cv2.resize(_face(0, 5), (128, 128), interpolation=cv2.INTER_CUBIC)
    _keep(store, {"Ann/a.jpg": encode_face(face, "jpeg")}, store_format)
    again = FaceStore(store).read_face("Ann/a.jpg").astype(int)
    assert 0 < np.abs(again - face).mean() < 1.5  # swapped channels would be off by dozens
    assert len(encode_face(face, "jpeg")) < len(encode_face(face)) / 2


def test_the_stored_picture_is_an_ordinary_rgb_png(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store")
    _keep(store, {"Ann/a.jpg": encode_face(_face(0))})
    with Image.open(store / "faces/Ann/a.jpg.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(image), _face(0))


def test_the_stored_picture_is_an_ordinary_jpeg_of_quality_95_without_colour_subsampling(tmp_path: Path) -> None:
    _keep(tmp_path, {"Ann/a.jpg": encode_face(_face(0), "jpeg")}, StoreFormat(encoding="jpeg"))
    pillows = io.BytesIO()
    Image.fromarray(_face(0)).save(pillows, "JPEG", quality=95, subsampling="4:4:4")
    with Image.open(tmp_path / "faces/Ann/a.jpg.jpg") as image, Image.open(pillows) as expected:
        assert isinstance(image, JpegImageFile)
        assert isinstance(expected, JpegImageFile)
        assert image.quantization == expected.quantization
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_a_store_that_does_not_name_its_format_holds_png_files(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text('{"format": 1, "size": 16}')
    (tmp_path / "faces").mkdir()
    Image.fromarray(_face(0)).save(tmp_path / "faces/a.jpg.png")
    np.testing.assert_array_equal(FaceStore(tmp_path).read_face("a.jpg"), _face(0))


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_photos_that_differ_in_their_suffix_alone_do_not_collide(tmp_path: Path, encoding: Any) -> None:
    keys = ["a.jpg", "a.png", "a", "a.jpg.png", "a.jpg.jpg"]
    assert len({face_path(tmp_path, key, encoding) for key in keys}) == len(keys)


@all_formats
def test_threads_and_processes_read_at_the_same_time(tmp_path: Path, store_format: StoreFormat) -> None:
    faces = {f"{number}.jpg": encode_face(_face(number), store_format.encoding) for number in range(40)}
    _make_store(tmp_path, store_format=store_format)
    _keep(tmp_path, faces, store_format)
    store = FaceStore(tmp_path)
    expected = {key: _decode(data) for key, data in faces.items()}
    keys = [key for _ in range(20) for key in faces]
    with ThreadPoolExecutor(8) as threads:
        for key, face in zip(keys, threads.map(store.read_face, keys), strict=True):
            np.testing.assert_array_equal(face, expected[key])
    for copy in (pickle.loads(pickle.dumps(store)), store):
        np.testing.assert_array_equal(copy.read_face("7.jpg"), expected["7.jpg"])
    with get_context("spawn").Pool(1) as spawned:
        np.testing.assert_array_equal(spawned.apply(store.read_face, ["7.jpg"]), expected["7.jpg"])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_processes_read_the_same_tar_file_as_their_parent(tmp_path: Path) -> None:
    store_format = StoreFormat(container="tar")
    _make_store(tmp_path, store_format=store_format)
    _keep(tmp_path, {f"{number}.jpg": encode_face(_face(number)) for number in range(40)}, store_format)
    store = FaceStore(tmp_path)
    store.read_face("0.jpg")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            right = all(np.array_equal(store.read_face(f"{n % 40}.jpg"), _face(n % 40)) for n in range(400))
            os._exit(0 if right else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _damaged(whole: bytes, small: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "head": whole[:40],
        "half": whole[: len(whole) // 2],
        "zeros": whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
        "small": small,
    }


PLACES = {
    "png": "store/faces/Ann/a.jpg.png",
    "jpeg": "store/faces/Ann/a.jpg.jpg",
    "packed png": "store/faces/00000.tar, Ann/a.jpg",
    "packed jpeg": "store/faces/00000.tar, Ann/a.jpg",
}


@pytest.mark.parametrize("damage", _damaged(b"0" * 80, b""))
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_pictures_are_named(tmp_path: Path, name: str, damage: str) -> None:
    store_format = FORMATS[name]
    store = _make_store(tmp_path / "store", store_format=store_format)
    whole, small = (encode_face(face, store_format.encoding) for face in (_face(0), _face(1, 15)))
    _keep(store, {"Ann/a.jpg": _damaged(whole, small)[damage]}, store_format)
    with pytest.raises(FacegmError, match=re.escape(f"{PLACES[name]}: missing or damaged face of the store")):
        FaceStore(store).read_face("Ann/a.jpg")


@all_formats
def test_missing_pictures_are_named(tmp_path: Path, store_format: StoreFormat) -> None:
    store = _make_store(tmp_path / "store", store_format=store_format)
    with pytest.raises(FacegmError, match=r"store/faces.*Ann/a\.jpg.*: missing or damaged"):
        FaceStore(store).read_face("Ann/a.jpg")


def test_a_changed_byte_of_a_png_and_a_folder_in_its_place_are_noticed(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store")
    flipped = bytearray(encode_face(_face(0)))
    flipped[len(flipped) // 2] ^= 0xFF
    _keep(store, {"flipped": bytes(flipped)})
    face_path(store, "folder").mkdir()
    for key in ("flipped", "folder"):
        with pytest.raises(FacegmError, match=rf"faces/{key}\.png: missing or damaged"):
            FaceStore(store).read_face(key)


def test_a_tar_file_that_is_gone_or_cut_short_is_named(tmp_path: Path) -> None:
    store_format = StoreFormat(container="tar")
    store = _make_store(tmp_path / "store", store_format=store_format)
    _keep(store, {"Ann/a.jpg": encode_face(_face(0))}, store_format)
    tar = store / "faces/00000.tar"
    os.truncate(tar, 700)
    for _ in range(2):
        with pytest.raises(FacegmError, match=r"faces/00000\.tar, Ann/a\.jpg: missing or damaged"):
            FaceStore(store).read_face("Ann/a.jpg")
        tar.unlink(missing_ok=True)


def test_a_picture_of_another_shape_is_not_taken_for_a_face(tmp_path: Path) -> None:
    store = _make_store(tmp_path / "store")
    _keep(store, {"k": cv2.imencode(".png", np.zeros((16, 17, 3), np.uint8))[1].tobytes()})
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
    with pytest.raises(FacegmError, match=r"store/manifest\.jsonl, line 4: damaged "):
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


_UNKNOWN_FORMATS = [
    b'{"format": 1, "encoding": "webp"}',
    b'{"format": 1, "container": "zip"}',
    b'{"format": 1, "encoding": []}',
]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"null", b'"format"', b"{}", b"\xff", *_UNKNOWN_FORMATS])
def test_damaged_settings_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(FacegmError, match=r"store\.json: damaged"):
        read_settings(tmp_path)


def test_settings_come_back(tmp_path: Path) -> None:
    content: dict[str, Any] = {"format": 1, "size": 16, "color": "RGB", "template": [[1.5, 2.5]]}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(content))
    assert FaceStore(tmp_path).settings == content | {"encoding": "png", "container": "folder"}
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
    _keep(tmp_path, {"a/b/c.jpg": b"1"})
    _keep(tmp_path, {"a/b/c.jpg": b"2"})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["faces/a/b/c.jpg.png"]
    assert face_path(tmp_path, "a/b/c.jpg").read_bytes() == b"2"
