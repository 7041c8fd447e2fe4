"""Protects readers of a store: the right face to each key and identity, damage named once for all, from any process."""

import io
import logging
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from store_runs import (
    ODD_NAMES,
    SIZE,
    StoppedError,
    bring_up_to_date,
    face_of,
    faces_expected,
    faces_of,
    make_photos,
    photos_in,
    plain_names,
)

from facegm.data.names import escaped
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError
from facegm.store.format import MANIFEST_FILE, encode_face
from facegm.store.reader import NO_FACE, NO_IDENTITY, FaceStore, Keys

pytestmark = pytest.mark.usefixtures("no_disk")
FORMATS = {
    f"{container} {encoding}": (container, encoding) for container in ("folder", "tar") for encoding in ("png", "jpeg")
}
all_formats = pytest.mark.parametrize(("container", "encoding"), FORMATS.values(), ids=list(FORMATS))
both = pytest.mark.parametrize("container", ["folder", "tar"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", [*plain_names(14), *ODD_NAMES])


def _make(tmp_path: Path, photos: Path, container: str = "folder", encoding: Any = "png") -> FaceStore:
    bring_up_to_date(tmp_path / "store", photos, container, encoding=encoding)
    return FaceStore(tmp_path / "store")


# ------------------------------------------------------------------------------------------------- keys, identities


def test_keys_are_the_photos_names_whatever_bytes_they_hold(tmp_path: Path, photos: Path) -> None:
    keys, expected = _make(tmp_path, photos).keys, [photo.key for photo in photos_in(photos)]
    assert {*ODD_NAMES} <= {*expected}
    assert [*keys] == expected
    assert len(keys) == len(expected)
    assert [keys[row] for row in range(len(expected))] == expected
    assert keys[-1] == expected[-1]
    assert keys[2:5] == expected[2:5]
    assert keys[np.int64(3)] == expected[3]
    assert ODD_NAMES[0] in keys
    with pytest.raises(IndexError):
        keys[len(expected)]


def test_identities_are_numbers_and_names(tmp_path: Path, photos: Path) -> None:
    """Protects labels: of photos without a face, of faces of no known identity, and of names that are escaped."""
    odd = os.fsdecode(b"Zo\xeb")
    listed = [
        Photo(path=p.path, key=p.key, identity={0: None, 1: odd, 2: "\\x41"}.get(number % 4, p.identity))
        for number, p in enumerate(photos_in(photos))
    ]
    bring_up_to_date(tmp_path / "store", listed)
    numbers, names = FaceStore(tmp_path / "store").identities()
    assert numbers.dtype == np.int64
    faces = faces_expected(photos)
    for photo, number in zip(listed, numbers.tolist(), strict=True):
        if faces[photo.key] is None:
            assert number == NO_FACE
        elif photo.identity is None:
            assert number == NO_IDENTITY
        else:
            assert names[number] == photo.identity
    assert len({*names}) == len(names) == len({photo.identity for photo in listed if photo.identity})


def test_names_in_one_block_of_memory_are_those_that_were_escaped() -> None:
    import pyarrow as pa

    names = ["a", os.fsdecode(b"\xff"), "b\\x41"]
    assert [*Keys(pa.array(map(escaped, names)))] == names


def test_columns_are_read_alone_and_in_the_order_that_is_asked_for(tmp_path: Path, photos: Path) -> None:
    store = _make(tmp_path, photos)
    table = store.table(["status", "key", "box"])
    assert table.column_names == ["status", "key", "box"]
    assert table["key"].to_pylist() == [escaped(key) for key in store.keys]
    assert {None if box is None else tuple(box) for box in table["box"].to_pylist()} == {None, (1, 2.5, 3, 4)}
    with pytest.raises(FacegmError, match=r"manifest\.parquet: damaged.*no_such_column"):
        store.table(["no_such_column"])


# ------------------------------------------------------------------------------------------------- faces


@all_formats
def test_faces_come_back_by_row(tmp_path: Path, photos: Path, container: str, encoding: Any) -> None:
    store = _make(tmp_path, photos, container, encoding)
    faces = faces_expected(photos)
    for row, key in enumerate(store.keys):
        pixels = faces[key]
        if pixels is not None:
            expected = np.frombuffer(pixels, np.uint8).reshape(SIZE, SIZE, 3)
            if encoding == "jpeg":
                with Image.open(io.BytesIO(encode_face(expected, "jpeg"))) as image:
                    expected = np.asarray(image)
            np.testing.assert_array_equal(store.read_face(row), expected)


@both
def test_threads_and_spawned_processes_read_at_the_same_time(tmp_path: Path, photos: Path, container: str) -> None:
    store = _make(tmp_path, photos, container)
    expected = list(faces_of(tmp_path / "store").values())
    rows = [row for _ in range(20) for row, face in enumerate(expected) if face]
    with ThreadPoolExecutor(8) as threads:
        for row, face in zip(rows, threads.map(store.read_face, rows), strict=True):
            assert face.tobytes() == expected[row]
    for copy in (pickle.loads(pickle.dumps(store)), pickle.loads(pickle.dumps(FaceStore(tmp_path / "store")))):
        assert copy.read_face(rows[0]).tobytes() == expected[rows[0]]
        assert [*copy.keys] == [*store.keys]
    if container == "tar":
        with get_context("spawn").Pool(1) as spawned:
            assert spawned.apply(store.read_face, [rows[0]]).tobytes() == expected[rows[0]]


@both
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_processes_read_what_their_parent_reads(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects the workers of a data loader: no place in a file is shared with them."""
    store, expected = _make(tmp_path, photos, container), faces_expected(photos)
    rows = [(row, face) for row, face in enumerate(expected.values()) if face]
    store.read_face(rows[0][0])
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                right = all(store.read_face(row).tobytes() == face for _ in range(30) for row, face in rows)
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


# ------------------------------------------------------------------------------------------------- damage


@all_formats
def test_damaged_faces_are_named_with_the_others_and_what_mends_them(
    tmp_path: Path, photos: Path, container: str, encoding: Any
) -> None:
    store = _make(tmp_path, photos, container, encoding)
    rows = store.table(["offset", "length", "status"]).to_pylist()
    first, second = (row for row in range(8, 12) if (rows[row]["status"] != "failed" and row < 10) or row == 11)
    suffix = {"png": ".png", "jpeg": ".jpg"}[encoding]
    path = store.folder / ("faces/00000.tar" if container == "tar" else f"faces/{store.keys[first]}{suffix}")
    place, whole = rows[first]["offset"], path.read_bytes()
    end = place + rows[first]["length"]
    damages = {
        "empty": whole[:place],
        "half": whole[: (place + end) // 2],
        "zeros": whole[: (place + end) // 2] + bytes(end - (place + end) // 2) + whole[end:],
        "a bit": whole[: place + 60] + bytes([whole[place + 60] ^ 1]) + whole[place + 61 :],
        "another": whole[:place]
        + encode_face(face_of(b"another"), encoding)[: end - place].ljust(end - place)
        + whole[end:],
        "cut off by a byte": whole[: end - 1],
    }
    for damage, content in damages.items():
        path.write_bytes(content)
        with pytest.raises(FacegmError) as error:
            FaceStore(store.folder).read_face(first)
        said = str(error.value)
        assert said.startswith(f"{path}: missing or damaged face of the store, of {store.keys[first]}"), damage
        assert said.endswith("; run `facegm align` again as before, which makes damaged faces anew")
        assert (store.keys[second] in said) == (container == "tar" and damage in ("empty", "half", "cut off by a byte"))
    path.unlink()
    with pytest.raises(FacegmError, match=re.escape(f"{path}: missing or damaged")):
        store.read_face(first)


def test_of_many_missing_faces_five_are_named_and_all_counted(tmp_path: Path, photos: Path) -> None:
    store = _make(tmp_path, photos)
    for path in (store.folder / "faces").rglob("*.png"):
        path.unlink()
    row = next(row for row, face in enumerate(faces_expected(photos).values()) if face)
    others = [key for key, face in faces_expected(photos).items() if face][1:]
    with pytest.raises(FacegmError, match=re.escape(f", and {len(others)} others: {', '.join(others[:5])}, ...; run")):
        store.read_face(row)


def test_the_look_for_others_has_an_end(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a training on millions of faces from a look at all of them before it says what is wrong."""
    store = _make(tmp_path, photos)
    for path in (store.folder / "faces").rglob("*.png"):
        path.unlink()
    monkeypatch.setattr("facegm.store.reader.PATIENCE", -1.0)
    with pytest.raises(FacegmError, match="and 1 others at least: "):
        store.read_face([face is not None for face in faces_expected(photos).values()].index(True) + 1)


def test_a_picture_of_another_shape_and_a_folder_in_its_place_are_no_faces(tmp_path: Path, photos: Path) -> None:
    store = _make(tmp_path, photos)
    row = [*store.keys].index("p0/001.jpg")
    path = store.folder / "faces/p0/001.jpg.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((SIZE, SIZE + 1, 3), np.uint8))[1].tobytes())
    with pytest.raises(FacegmError, match="damaged"):
        store.read_face(row)
    path.unlink()
    path.mkdir()
    with pytest.raises(FacegmError, match="damaged"):
        store.read_face(row)


# ------------------------------------------------------------------------------------------------- unfinished stores


@both
def test_an_unfinished_store_is_refused(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects a training from half of its faces."""
    with pytest.raises(StoppedError):
        bring_up_to_date(tmp_path / "store", photos, container, stop_after=2)
    with pytest.raises(FacegmError, match="is not at its end; run `facegm align` again as before"):
        FaceStore(tmp_path / "store")
    bring_up_to_date(tmp_path / "store", photos, container)
    assert faces_of(tmp_path / "store") == faces_expected(photos)


def test_a_store_that_is_brought_up_to_date_is_read_as_it_was_with_a_warning(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _make(tmp_path, photos)
    expected, keys = faces_of(store.folder), [*store.keys]
    make_photos(photos, [f"new/{number}.jpg" for number in range(9)])
    with pytest.raises(StoppedError):
        bring_up_to_date(store.folder, photos, stop_after=1)
    with caplog.at_level(logging.WARNING):
        again = FaceStore(store.folder)
    assert "taken as it was before the last `facegm align`, which has not finished" in caplog.text
    assert [*again.keys] == keys
    assert faces_of(store.folder) == expected
    bring_up_to_date(store.folder, photos)
    caplog.clear()
    assert len(FaceStore(store.folder).keys) == len(keys) + 9
    assert not caplog.text


def test_a_store_whose_manifest_is_lost_says_so(tmp_path: Path, photos: Path) -> None:
    """Protects from a folder that was half copied; the faces that are there are not aligned for nothing."""
    store = _make(tmp_path, photos)
    (store.folder / MANIFEST_FILE).unlink()
    with pytest.raises(FacegmError, match=r"manifest\.parquet: missing; run `facegm align` again as before"):
        _ = FaceStore(store.folder).keys
