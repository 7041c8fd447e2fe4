"""Protects LMDB sets of faces: images and identities as the tools that write them mean, and no code of others is run.

Values are packed here by msgpack and pickle themselves.
"""

import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data.readers import lmdb as lmdb_reader
from facegm.data.readers.photo import Photo
from facegm.data.readers.serialized import NotAPairError, label_of, unpack_pair
from facegm.data.readers.source import UnreadablePhotoError, find_photos, photo_stamp, read_photo_bytes
from facegm.errors import FacegmError


def _jpeg(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, "jpeg")
    return file.getvalue()


JPEGS = [_jpeg(number) for number in range(12)]


def _set(path: Path, entries: Mapping[bytes, bytes], *, is_folder: bool = False) -> Path:
    environment = lmdb.open(str(path), subdir=is_folder, map_size=1 << 24)
    with environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return path


def _msgpack(*fields: object, uses_old_format: bool = False) -> bytes:
    """As msgpack's specification has it; held against the package below, where that is there."""
    packed = bytes([0x90 + len(fields)])
    for field in fields:
        if isinstance(field, int):
            packed += bytes([field]) if field < 128 else b"\xce" + field.to_bytes(4, "big")
        else:
            data = field.encode() if isinstance(field, str) else field
            assert isinstance(data, bytes)
            is_text = isinstance(field, str) or uses_old_format
            packed += (b"\xdb" if is_text else b"\xc6") + len(data).to_bytes(4, "big") + data
    return packed


# ------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("is_folder", [False, True])
def test_images_under_paths_are_photos_and_their_folders_identities(tmp_path: Path, is_folder: bool) -> None:
    names = {b"Ann/1.jpg": JPEGS[0], "Zoë/2".encode(): JPEGS[1], b"Bob/x/3.PNG": b"damaged", b"stray.jpg": JPEGS[3]}
    others = {b"__len__": b"4", b"Bob/notes.txt": b"none", b"count": b"4"}
    path = _set(tmp_path / "set.lmdb", {**names, **others}, is_folder=is_folder)
    found = find_photos(path)
    assert {photo.key: photo.identity for photo in found.photos} == {
        "Ann/1.jpg": "Ann",
        "Bob/x/3.PNG": "x",
        "Zoë/2": "Zoë",
        "stray.jpg": None,
    }
    assert [read_photo_bytes(photo) for photo in found.photos] == [names[photo.key.encode()] for photo in found.photos]
    assert "2 files that are no photos are passed over: 1 without suffix, 1 .txt" in found.remarks
    assert any(remark.startswith("1 photo lies in no folder, such as stray.jpg") for remark in found.remarks)
    assert find_photos(path, identity_level=2).photos[1].identity == "Bob"


def _pairs(pack: Any) -> dict[bytes, bytes]:
    """Twelve images of identities 0, 300 and 600, as `folder2lmdb` and its kin number them."""
    entries = {f"{number}".encode(): pack(jpeg, number % 3 * 300) for number, jpeg in enumerate(JPEGS)}
    return {**entries, b"__keys__": b"any", b"__len__": b"\x0c", b"__classnum__": b"\x03"}


PACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "msgpack": _msgpack,
    "old msgpack": lambda jpeg, label: _msgpack(jpeg, label, uses_old_format=True),
    "msgpack with features": lambda jpeg, label: _msgpack(jpeg, b"\x93NUMPY features", label),
    "pickle": lambda jpeg, label: pickle.dumps((jpeg, label)),
    "pickle of a loader": lambda jpeg, label: pickle.dumps(([jpeg], np.array([label]))),
    "pickle of numpy's numbers": lambda jpeg, label: pickle.dumps([(jpeg,), np.int32(label)], protocol=5),
    "big-endian": lambda jpeg, label: pickle.dumps((jpeg, np.array([label], ">i4")), protocol=4),
    "protocol 2": lambda jpeg, label: pickle.dumps(([jpeg], np.array([label])), protocol=2),
    "protocol 5": lambda jpeg, label: pickle.dumps(([jpeg], np.array([label])), protocol=5),
    "older numpy": lambda jpeg, label: pickle.dumps(([jpeg], np.array([label]))).replace(
        b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"
    ),
}


def _without_frame(value: bytes) -> bytes:
    """A pickle whose length has been changed by hand has no frame that tells the length."""
    return value[:2] + value[11:] if value[:1] == b"\x80" and value[2:3] == b"\x95" else value


@pytest.mark.parametrize("kind", PACKERS)
def test_pairs_of_image_and_label_are_photos_of_that_identity(tmp_path: Path, kind: str) -> None:
    path = _set(tmp_path / "vface.lmdb", _pairs(lambda jpeg, label: _without_frame(PACKERS[kind](jpeg, label))))
    found = find_photos(path)
    expected = sorted((f"{number % 3 * 300:07}", f"{number:09}.jpg", number) for number in range(12))
    assert [photo.key for photo in found.photos] == [f"{label}/{name}" for label, name, _ in expected]
    assert [photo.identity for photo in found.photos] == [label for label, _, _ in expected]
    assert [read_photo_bytes(photo) for photo in found.photos] == [JPEGS[number] for _, _, number in expected]
    assert found.remarks == ()


def test_labels_and_keys_may_be_names(tmp_path: Path) -> None:
    entries = {b"a/1": _msgpack(JPEGS[0], "Ann Lee"), b"../b.png": _msgpack(JPEGS[1], "../Bob")}
    photos = find_photos(_set(tmp_path / "set.mdb", entries)).photos
    assert [(photo.key, photo.identity) for photo in photos] == [("Ann Lee/a/1", "Ann Lee"), ("Bob/b.png", "Bob")]
    assert [read_photo_bytes(photo) for photo in photos] == JPEGS[:2]


@pytest.mark.skipif(find_spec("msgpack") is None, reason="held against msgpack where it is installed")
@settings(max_examples=200, deadline=None)
@given(
    image=st.binary(max_size=70_000),
    features=st.none() | st.binary(max_size=300),
    label=st.integers(0, 2**63) | st.text(min_size=1).filter(lambda text: text.strip(" /.")),
    is_old=st.booleans(),
)
def test_whatever_msgpack_packs_comes_back(
    image: bytes, features: bytes | None, label: int | str, is_old: bool
) -> None:
    msgpack = import_module("msgpack")
    fields = (image, label) if features is None else (image, features, label)
    value = msgpack.packb(fields, use_bin_type=not is_old)
    assert unpack_pair(memoryview(value)) == (image, label)
    assert label_of(value) == label
    with pytest.raises(NotAPairError):
        unpack_pair(value[:-1])
    with pytest.raises(NotAPairError):
        label_of(value + b"\0")


@settings(max_examples=500, deadline=None)
@given(
    value=st.binary(max_size=40)
    | st.binary(max_size=40).map(lambda data: b"\x92" + data)
    | st.binary(max_size=40).map(lambda data: b"\x80\x04" + data)
)
def test_any_bytes_are_a_pair_or_refused(value: bytes) -> None:
    try:
        image, label = unpack_pair(value)
    except NotAPairError:
        return
    assert isinstance(image, bytes)
    assert isinstance(label, int | str)


# ------------------------------------------------------------------------------------------------- code of others


class _Bomb:
    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


def _ran() -> None:
    raise AssertionError("code of the set was run")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call", [(os.system, "true"), (eval, "1"), (_ran,), (getattr, b"", "join"), (np.fromfile, "x")]
)
def test_pickles_run_no_code(tmp_path: Path, call: tuple[Any, ...], protocol: int) -> None:
    value = pickle.dumps((JPEGS[0], _Bomb(*call)), protocol=protocol)
    refusal = "a pickle that asks for .*, which may be code" if protocol > 1 else "."
    with pytest.raises(NotAPairError, match=refusal):
        unpack_pair(value)
    with pytest.raises(FacegmError, match="of a kind that is not known"):
        find_photos(_set(tmp_path / "set.lmdb", {b"0": value}))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_pickles_are_refused_or_give_a_pair(data: st.DataObject) -> None:
    value = bytearray(pickle.dumps((b"image", np.array([3])), protocol=data.draw(st.integers(2, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(1, len(value) - 1))] = data.draw(st.integers(0, 255))
    try:
        image, label = unpack_pair(bytes(value))
    except NotAPairError:
        return
    assert isinstance(image, bytes)
    assert isinstance(label, int | str)


@pytest.mark.parametrize("label", [np.array([1, 2]), np.array(["Ann"]), 1.5, None, True, -1, "..", np.float64(1), []])
def test_labels_that_are_no_identity_are_refused(label: object) -> None:
    with pytest.raises(NotAPairError, match="label"):
        unpack_pair(pickle.dumps((JPEGS[0], label)))


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "entries",
    [{}, {b"__len__": b"0"}, {b"00000000_a.jpg": b"\x08\x03\x10\x08 caffe's Datum"}, {b"0": b"\x93\xc0\xc0\xc0"}],
)
def test_a_set_of_another_kind_is_refused_with_what_is_in_it(tmp_path: Path, entries: dict[bytes, bytes]) -> None:
    path = _set(tmp_path / "set.lmdb", entries)
    with pytest.raises(FacegmError, match=r"set\.lmdb: an LMDB set of a kind that is not known \((no entry|first ')"):
        find_photos(path)


def test_a_damaged_pair_is_named(tmp_path: Path) -> None:
    path = _set(tmp_path / "set.lmdb", {b"0": _msgpack(JPEGS[0], 1), b"1": _msgpack(JPEGS[0], 1)[:-3]})
    with pytest.raises(FacegmError, match=r"set\.lmdb, entry '1': damaged: cut off; make the set again"):
        find_photos(path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 10_000])
def test_a_file_that_is_no_set_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.lmdb").write_bytes(content)
    with pytest.raises(FacegmError, match=r"set\.lmdb: not an LMDB set, or damaged"):
        find_photos(tmp_path / "set.lmdb")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_set_cut_off_is_refused_and_does_not_end_the_process(tmp_path: Path, is_folder: bool) -> None:
    path = _set(tmp_path / "set.lmdb", {b"%d" % n: _msgpack(b"x" * 9000, n) for n in range(50)}, is_folder=is_folder)
    data = path / "data.mdb" if is_folder else path
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(FacegmError, match=r"set\.lmdb: cut off: [\d,]+ of [\d,]+ bytes"):
        find_photos(path)


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _set(tmp_path / "set.lmdb", {b"Ann/1.jpg": JPEGS[0]})
    monkeypatch.setattr(lmdb_reader, "find_spec", lambda _: None)
    with pytest.raises(FacegmError, match=r'pip install "facegm\[lmdb\]"'):
        find_photos(path)


def test_what_becomes_of_a_set_after_the_listing_costs_its_photos(tmp_path: Path) -> None:
    path = _set(tmp_path / "set.lmdb", {b"Ann/1.jpg": JPEGS[1], b"Ann/2.jpg": JPEGS[2], b"Ann/3.jpg": b""})
    one, two, empty = find_photos(path).photos
    with pytest.raises(UnreadablePhotoError, match="empty entry"):
        read_photo_bytes(empty)
    other = _set(tmp_path / "other.lmdb", {b"Ann/1.jpg": JPEGS[3]})
    stamp = photo_stamp(one)
    other.replace(path)
    assert read_photo_bytes(one) == JPEGS[3]  # the new file's, not the old one's that is still open
    assert photo_stamp(one) != stamp
    with pytest.raises(UnreadablePhotoError, match="no longer in the LMDB set"):
        read_photo_bytes(two)
    path.unlink()
    with pytest.raises(UnreadablePhotoError, match="No such file"):
        read_photo_bytes(one)
    assert photo_stamp(one) is None


# ------------------------------------------------------------------------------------------------- processes


def test_a_folder_that_holds_a_set_is_that_set(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    path = _set(tmp_path / "sets" / "vface.lmdb", {b"0": _msgpack(JPEGS[0], 1)})
    assert find_photos(tmp_path / "sets").photos == find_photos(path).photos
    folder = _set(tmp_path / "one", {b"0": _msgpack(JPEGS[0], 1)}, is_folder=True)
    (photo,) = find_photos(folder).photos
    assert photo == Photo(
        path=str(folder), key="0000001/000000000.jpg", identity="0000001", offset=None, length=None, entry=b"0"
    )
    assert (photo_stamp(photo) or (0,))[0] == (folder / "data.mdb").stat().st_size
    (tmp_path / "sets" / "Ann").mkdir()
    (tmp_path / "sets" / "Ann" / "1.jpg").write_bytes(JPEGS[0])
    found = find_photos(tmp_path / "sets")
    assert [photo.key for photo in found.photos] == ["Ann/1.jpg"]
    assert any("not what is packed in vface.lmdb" in remark for remark in found.remarks)


def test_threads_forked_processes_and_new_ones_read_the_same(tmp_path: Path) -> None:
    path = _set(tmp_path / "set.lmdb", _pairs(_msgpack))
    photos = find_photos(path).photos
    expected = [read_photo_bytes(photo) for photo in photos]
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append([*map(read_photo_bytes, photos * 5)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected * 5] * 8

    with lmdb_reader._opened.transaction(str(path)):  # held by a thread that the child does not have
        child = os.fork()
        if child == 0:
            os._exit(0 if [*map(read_photo_bytes, photos)] == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    script = "import pickle, sys; from facegm.data.readers.source import read_photo_bytes;"
    script += "pickle.dump([*map(read_photo_bytes, pickle.load(sys.stdin.buffer))], sys.stdout.buffer)"
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(photos), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == expected


def test_a_set_is_not_changed_by_reading_it(tmp_path: Path) -> None:
    path = _set(tmp_path / "one", _pairs(_msgpack), is_folder=True)
    (path / "lock.mdb").unlink()
    before = (path / "data.mdb").read_bytes()
    for mode in (0o555, 0o755):
        path.chmod(mode)
        assert len([*map(read_photo_bytes, find_photos(path).photos)]) == 12
    assert os.listdir(path) == ["data.mdb"]
    assert (path / "data.mdb").read_bytes() == before
