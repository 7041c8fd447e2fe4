"""Protects the reading of CIFAR: both layouts give the same pixels, no pickle runs code, and damage is named.

The files are written here from the description of their authors, by loops, with nothing of what reads them.
"""

import itertools
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facegm.data.readers.arrays import LabelledArrays, Part
from facegm.data.readers.cifar import read_cifar
from facegm.errors import FacegmError

Name = Literal["cifar10", "cifar100"]
Images = NDArray[np.uint8]

FILES: dict[Name, dict[Part, list[str]]] = {
    "cifar10": {"train": [f"data_batch_{number}" for number in (1, 2, 3, 4, 5)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
BINARY = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
PYTHON = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(f"{kind}_{number}" for kind in CIFAR10 for number in range(10))
NAMES = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def _planes(image: Images) -> bytes:
    """Red, green and blue, each row by row."""
    return bytes(int(image[y, x, color]) for color in range(3) for y in range(32) for x in range(32))


def _images(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _labels(name: Name, count: int, seed: int = 0) -> list[int]:
    return [int(label) for label in np.random.default_rng(seed).integers(0, len(NAMES[name]), count)]


# ------------------------------------------------------------------------------------------------- writers


def _binary(name: Name, images: Images, labels: list[int]) -> bytes:
    heads = [bytes([label]) if name == "cifar10" else bytes([label % 20, label]) for label in labels]
    return b"".join(head + _planes(image) for head, image in zip(heads, images, strict=True))


def _entries(name: Name, images: Images, labels: list[int]) -> dict[str, Any]:
    data = np.frombuffer(b"".join(map(_planes, images)), np.uint8).reshape(-1, 3072)
    if name == "cifar10":
        return {"batch_label": "one of them", "labels": labels, "data": data, "filenames": ["x.png"] * len(labels)}
    return {"fine_labels": labels, "coarse_labels": [label % 20 for label in labels], "data": data}


def _pickle(protocol: int, keys: Callable[[str], Any]) -> Callable[[Name, Images, list[int]], bytes]:
    def write(name: Name, images: Images, labels: list[int]) -> bytes:
        entries = {keys(key): value for key, value in _entries(name, images, labels).items()}
        return pickle.dumps(entries, protocol=protocol)

    return write


def _of_python_2(name: Name, images: Images, labels: list[int]) -> bytes:
    """What Python 2 and the numpy of its day wrote, and the published files are; opcode by opcode."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    pixels = b"".join(map(_planes, images))
    shape = struct.pack("<cIcI", b"J", len(labels), b"J", 3072)
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02(K\x00t" + string(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\nq\x03(" + string(b"u1") + b"K\x00K\x01tR(K\x03" + string(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"(K\x01(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    key = string(b"labels" if name == "cifar10" else b"fine_labels")
    text = string(b"caf\xe9.png")  # of no encoding that is known
    return b"\x80\x02}q\x00(" + key + numbers + string(b"data") + array + string(b"filenames") + text + b"u."


PICKLES: dict[str, Callable[[Name, Images, list[int]], bytes]] = {
    **{f"protocol {number}, text": _pickle(number, str) for number in range(6)},
    **{f"protocol {number}, bytes": _pickle(number, str.encode) for number in (2, 4)},
    "Python 2": _of_python_2,
    "older numpy": lambda *batch: _pickle(2, str)(*batch).replace(b"numpy._core.", b"numpy.core."),
}
WRITERS = {"binary": _binary, **PICKLES}


def _write(folder: Path, name: Name, part: Part, kind: str, batches: list[tuple[Images, list[int]]]) -> list[Path]:
    suffix = ".bin" if kind == "binary" else ""
    paths = [folder / f"{file}{suffix}" for file in FILES[name][part]]
    folder.mkdir(parents=True, exist_ok=True)
    for path, (images, labels) in zip(paths, batches, strict=True):
        path.write_bytes(WRITERS[kind](name, images, labels))
    return paths


def _write_names(folder: Path, name: Name, kind: str, names: list[str]) -> Path:
    if kind == "binary":
        path = folder / ("batches.meta.txt" if name == "cifar10" else "fine_label_names.txt")
        path.write_text("\n".join(names) + "\n\n")
    else:
        path = folder / ("batches.meta" if name == "cifar10" else "meta")
        key, protocol = ("label_names" if name == "cifar10" else "fine_label_names"), 2
        encoded = {key.encode(): [text.encode() for text in names]}
        path.write_bytes(pickle.dumps(encoded if "bytes" in kind else {key: names}, protocol=protocol))
    return path


def _one(folder: Path, kind: str, name: Name = "cifar10", count: int = 2) -> Path:
    """A test part alone."""
    return _write(folder, name, "test", kind, [(_images(count), _labels(name, count))])[0]


def _check(read: LabelledArrays, images: Images, labels: list[int], classes: tuple[str, ...]) -> None:
    assert read.images.dtype == np.uint8
    assert read.labels.dtype == np.int64
    np.testing.assert_array_equal(read.images, images, strict=True)
    assert read.labels.tolist() == labels
    assert read.classes == classes


def _message(folder: Path, name: Name = "cifar10", part: Part = "test") -> str:
    with pytest.raises(FacegmError) as caught:
        read_cifar(folder, name, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- what is whole


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["cifar10", "cifar100"]),
    part=st.sampled_from(["train", "test"]),
    kind=st.sampled_from([*WRITERS]),
    own_folder=st.booleans(),
    named=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_images_and_labels_come_back_from_either_layout(
    tmp_path_factory: pytest.TempPathFactory,
    name: Name,
    part: Part,
    kind: str,
    own_folder: bool,
    named: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    place = folder if own_folder else folder / (BINARY if kind == "binary" else PYTHON)[name]
    counts = [data.draw(st.integers(1, 3)) for _ in FILES[name][part]]
    batches = [(_images(n, seed + i), _labels(name, n, seed + i)) for i, n in enumerate(counts)]
    _write(place, name, part, kind, batches)
    fallback = CIFAR10 if name == "cifar10" else tuple(str(number) for number in range(100))
    if named:
        _write_names(place, name, kind, [f"{text}!" for text in NAMES[name]])
    classes = tuple(f"{text}!" for text in NAMES[name]) if named else fallback
    images = np.concatenate([images for images, _ in batches])
    _check(read_cifar(folder, name, part), images, [label for _, labels in batches for label in labels], classes)


def test_cifar10_is_as_published(shared_data: Path, unpacked_cifar10: Path) -> None:
    """Held against the lossless pictures that the batches are made of, decoded by another library."""
    labels = np.load(shared_data / "cifar10" / "labels.npy")
    train, test = (read_cifar(unpacked_cifar10, "cifar10", part) for part in ("train", "test"))
    assert train.images.shape == (50_000, 32, 32, 3)
    assert test.images.shape == (1000, 32, 32, 3)
    assert train.classes == test.classes == CIFAR10
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # the frog, two trucks, the deer and the car of every tutorial
    np.testing.assert_array_equal(train.labels, labels[:50_000])
    np.testing.assert_array_equal(test.labels, labels[50_000:])
    for images, pack in [(train.images[pack * 1000 :], pack) for pack in range(0, 50, 10)] + [(test.images, 50)]:
        sheet = cv2.imread(str(shared_data / "cifar10" / f"cifar10_batch_{pack}.webp"), cv2.IMREAD_COLOR_RGB)
        assert sheet is not None
        columns = sheet.shape[1] // 32
        for number in range(40):
            y, x = number // columns * 32, number % columns * 32
            np.testing.assert_array_equal(images[number], sheet[y : y + 32, x : x + 32])


# ------------------------------------------------------------------------------------------------- code of others


class _Bomb:
    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("is_about_names", [False, True])
def test_a_pickle_that_would_run_code_leaves_no_trace(tmp_path: Path, protocol: int, is_about_names: bool) -> None:
    trace = tmp_path / "trace"
    path = _one(tmp_path / "set", "protocol 2, text")
    calls: list[tuple[Any, ...]] = [
        (os.system, f"touch {trace}"),
        (os.mkdir, str(trace)),
        (eval, f"open({trace}, 'w')"),
    ]
    calls += [(getattr, b"", "join"), (np.fromfile, str(path)), (np.load, str(path))]
    for call in calls:
        bad = {"labels": [1], "data": _Bomb(*call)} if not is_about_names else {"label_names": _Bomb(*call)}
        target = path.with_name("batches.meta") if is_about_names else path
        target.write_bytes(pickle.dumps(bad, protocol=protocol))
        message = _message(tmp_path / "set")
        assert message.startswith(f"{target}: a pickle that asks for ")
        assert "which may be code and is not run; copy or download it again" in message
    assert sorted(tmp_path.iterdir()) == [tmp_path / "set"]


def test_a_pickle_is_not_given_memory_for_what_it_does_not_hold(tmp_path: Path) -> None:
    """Protects from one flipped bit, which could make the unpickler take 32 GiB."""
    path = _one(tmp_path, "protocol 2, text")
    arrays = [
        b"\x80\x02}r\xff\xff\xff\x00.",
        b"\x80\x02}p16000000\n.",
        b"\x80\x02cnumpy\nndarray\n(NJ\x00\x00\x00\x10tR.",
    ]
    for content in arrays:
        path.write_bytes(content)
        tracemalloc.start()
        try:
            assert _message(tmp_path).startswith(f"{path}: ")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
def test_a_binary_file_cut_off_within_a_record_is_named(tmp_path: Path, name: Name) -> None:
    path = _one(tmp_path, "binary", name)
    whole = path.read_bytes()
    size = len(whole) // 2
    for length in [*range(0, len(whole), 7), size - 1, size + 1, len(whole) - 1]:
        if length % size or not length:
            path.write_bytes(whole[:length])
            assert _message(tmp_path, name).startswith(f"{path}: {length} bytes are no whole number of records")
    path.write_bytes(whole + b"\0")
    assert _message(tmp_path, name).startswith(f"{path}: {len(whole) + 1} bytes")


@pytest.mark.parametrize("kind", ["protocol 0, text", "protocol 2, text", "protocol 5, text", "Python 2"])
def test_a_pickle_cut_off_anywhere_is_named(tmp_path: Path, kind: str) -> None:
    path = _one(tmp_path, kind, count=1)
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 11), *range(300), *range(len(whole) - 300, len(whole))}:
        path.write_bytes(whole[:length])
        assert _message(tmp_path).startswith(f"{path}: ")
    path.write_bytes(whole + b"\0")
    assert _message(tmp_path).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["protocol 2, text", "protocol 4, text", "protocol 5, text", "Python 2"])
def test_any_other_byte_of_a_pickle_is_named_or_is_one_pixel_or_label(tmp_path: Path, kind: str) -> None:
    """All bytes that frame the pixels, and some of these."""
    images, labels = _images(2), [3, 4]
    path = _write(tmp_path, "cifar10", "test", kind, [(images, labels)])[0]
    whole = path.read_bytes()
    framing = [i for i in range(len(whole)) if i < 300 or i > len(whole) - 60 or i % 1000 == 0]
    refusals: list[str] = []
    for position, flipped in itertools.product(framing, (0x01, 0x20, 0xFF)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ flipped]) + whole[position + 1 :])
        try:
            read = read_cifar(tmp_path, "cifar10", "test")
        except FacegmError as error:
            refusals.append(str(error))
            continue
        assert read.images.shape == images.shape
        differ = int((read.images != images).sum()) + int((read.labels != np.array(labels)).sum())
        assert differ <= 1, (position, whole[position], flipped)
    assert len(refusals) > 200
    assert all(message.startswith(f"{path}: ") for message in refusals)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["binary", "protocol 4, text"])
def test_a_label_beyond_the_classes_is_named_with_its_image(tmp_path: Path, name: Name, kind: str) -> None:
    beyond = len(NAMES[name])
    path = _write(tmp_path, name, "test", kind, [(_images(3), [0, beyond, beyond + 1])])[0]
    assert _message(tmp_path, name).startswith(f"{path}: image 1 has label {beyond}, not 0 to {beyond - 1}; ")


def test_a_superclass_beyond_the_twenty_is_named(tmp_path: Path) -> None:
    path = _one(tmp_path, "binary", "cifar100", count=1)
    path.write_bytes(b"\x14" + path.read_bytes()[1:])
    assert _message(tmp_path, "cifar100").startswith(f"{path}: image 0 has label 20, not 0 to 19; ")


ROW = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1], "a pickled list where a dictionary should be"),
        ({"labels": [1]}, "no array as its data"),
        ({"labels": [1], "data": ROW.tobytes()}, "no array as its data"),
        ({"data": ROW}, "no list of small whole numbers as its labels"),
        ({"labels": 1, "data": ROW}, "no list of small whole numbers"),
        ({"labels": [1.0], "data": ROW}, "no list of small whole numbers"),
        ({"labels": [True], "data": ROW}, "no list of small whole numbers"),
        ({"labels": [-1], "data": ROW}, "no list of small whole numbers"),
        ({"labels": [1 << 70], "data": ROW}, "no list of small whole numbers"),
        ({"fine_labels": [1], "data": ROW}, "no list of small whole numbers"),
        ({"labels": [1, 2], "data": ROW}, r"data of shape \(1, 3072\) for 2 images"),
        ({"labels": [1], "data": ROW.reshape(1, 3, 32, 32)}, r"data of shape \(1, 3, 32, 32\) for 1 images"),
        ({"labels": [], "data": ROW}, r"data of shape \(1, 3072\) for 0 images"),
        ({"labels": [1], "data": ROW.astype(np.int8)}, "an array of other numbers than uint8"),
        ({"labels": [1], "data": ROW.astype(np.float32)}, "an array of other numbers than uint8"),
        ({"labels": [1], "data": ROW.astype(object)}, "an array whose content is no bytes"),
        ({"labels": [1, 1], "data": np.asfortranarray(np.repeat(ROW, 2, axis=0))}, "or not row by row"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_of_something_else_is_named(tmp_path: Path, content: Any, reason: str, protocol: int) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(FacegmError, match=f"test_batch: .*{reason}.*; copy or download it again"):
        read_cifar(tmp_path, "cifar10", "test")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["binary", "protocol 4, text"])
@pytest.mark.parametrize(
    "change", [lambda names: names[:-1], lambda names: [*names, "x"], lambda names: names[1:] + names[-1:]]
)
def test_names_that_are_not_one_for_each_class_are_named(
    tmp_path: Path, name: Name, kind: str, change: Callable[[list[str]], list[str]]
) -> None:
    _one(tmp_path, kind, name)
    path = _write_names(tmp_path, name, kind, change([*NAMES[name]]))
    assert _message(tmp_path, name).startswith(f"{path}: ")
    assert "different names of classes" in _message(tmp_path, name)


def test_names_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    _one(tmp_path, "binary")
    (tmp_path / "batches.meta.txt").write_bytes(b"\xff\xfe")
    assert _message(tmp_path).startswith(f"{tmp_path / 'batches.meta.txt'}: no text; ")
    (tmp_path / "test_batch.bin").unlink()
    _one(tmp_path, "protocol 4, text")
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": "airplane"}))
    assert _message(tmp_path).startswith(f"{tmp_path / 'batches.meta'}: 0 different names")


# ------------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("kind", ["binary", "protocol 4, text"])
def test_missing_batches_are_named(tmp_path: Path, kind: str) -> None:
    paths = _write(tmp_path, "cifar10", "train", kind, [(_images(1), [1])] * 5)
    for path in (paths[1], paths[3]):
        path.unlink()
    message = _message(tmp_path, "cifar10", "train")
    assert message.startswith(f"{tmp_path}: {paths[1].name}, {paths[3].name} missing; ")


def test_a_whole_layout_is_read_beside_one_that_lacks_a_batch(tmp_path: Path) -> None:
    whole = [(_images(1, seed), [seed]) for seed in range(5)]
    _write(tmp_path / PYTHON["cifar10"], "cifar10", "train", "protocol 4, text", whole)
    _write(tmp_path / BINARY["cifar10"], "cifar10", "train", "binary", [(_images(1), [9])] * 5)[2].unlink()
    assert read_cifar(tmp_path, "cifar10", "train").labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_any_is_told_what_to_hold(tmp_path: Path, name: Name) -> None:
    for other in ("train", "test"):
        (tmp_path / other).mkdir()  # folders of photos, as other sets have them
    message = _message(tmp_path, name)
    assert message.startswith(f"{tmp_path}: no files of {name}; lay {BINARY[name]} or {PYTHON[name]} there")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = _one(tmp_path, "binary")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert _message(tmp_path).startswith(f"{path}: cannot read this file: Permission denied; ")
