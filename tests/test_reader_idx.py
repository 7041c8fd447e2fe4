"""Protects the reading of MNIST: every number comes back, and whatever is wrong with a file is named.

The files are written here from LeCun's description, by struct and loops, with nothing of what reads them.
"""

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.data.readers.arrays import LabelledArrays, Part
from facegm.data.readers.idx import read_mnist
from facegm.errors import FacegmError

Pixels = list[list[list[int]]]
TRAIN: Pixels = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]], [[250, 251, 252], [253, 254, 255]]]
TEST: Pixels = [[[60, 50, 40], [30, 20, 10]]]
NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
MIB = 1 << 20


def _images(pixels: Pixels) -> bytes:
    """An IDX file of images of the same size."""
    data = struct.pack(">BBBBIII", 0, 0, 8, 3, len(pixels), len(pixels[0]), len(pixels[0][0]))
    for image in pixels:
        for row in image:
            for value in row:
                data += struct.pack("B", value)
    return data


def _labels(labels: list[int]) -> bytes:
    return struct.pack(">BBBBI", 0, 0, 8, 1, len(labels)) + b"".join(struct.pack("B", label) for label in labels)


def _write(folder: Path, contents: list[bytes], *, suffix: str = "", dot: bool = False) -> Path:
    """Write the four files, compressed if their suffix says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, contents, strict=True):
        spelled = name.replace("-idx", ".idx") if dot else name
        (folder / f"{spelled}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def _small(folder: Path, *, suffix: str = "") -> Path:
    return _write(folder, [_images(TRAIN), _labels([2, 0, 1]), _images(TEST), _labels([1])], suffix=suffix)


def _plain(read: LabelledArrays) -> tuple[object, list[int], tuple[str, ...]]:
    assert read.images.dtype == np.uint8
    assert read.images.shape[3:] == (1,)
    assert read.labels.dtype == np.int64
    return read.images[..., 0].tolist(), read.labels.tolist(), read.classes


def _message(folder: Path, part: Part = "train") -> str:
    with pytest.raises(FacegmError) as caught:
        read_mnist(folder, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- what is whole


@st.composite
def _pixels(draw: st.DrawFn) -> Pixels:
    count, height, width = (draw(st.integers(1, 4)) for _ in range(3))
    row = st.lists(st.integers(0, 255), min_size=width, max_size=width)
    return draw(st.lists(st.lists(row, min_size=height, max_size=height), min_size=count, max_size=count))


@settings(max_examples=150, deadline=None)
@given(
    train=_pixels(),
    test=_pixels(),
    place=st.sampled_from(["", "MNIST/raw", "raw"]),
    suffix=st.sampled_from(["", ".gz"]),
    dot=st.booleans(),
    data=st.data(),
)
def test_any_images_and_labels_come_back_wherever_and_however_they_lie(
    tmp_path_factory: pytest.TempPathFactory,
    train: Pixels,
    test: Pixels,
    place: str,
    suffix: Literal["", ".gz"],
    dot: bool,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("mnist")
    train_labels = data.draw(st.lists(st.integers(0, 255), min_size=len(train), max_size=len(train)))
    highest = max(train_labels)
    test_labels = data.draw(st.lists(st.integers(0, highest), min_size=len(test), max_size=len(test)))
    contents = [_images(train), _labels(train_labels), _images(test), _labels(test_labels)]
    _write(folder / place, contents, suffix=suffix, dot=dot)
    classes = tuple(str(number) for number in range(highest + 1))
    assert _plain(read_mnist(folder, "train")) == (train, train_labels, classes)
    assert _plain(read_mnist(folder, "test")) == (test, test_labels, classes)


def test_what_a_browser_has_unpacked_without_renaming_is_read(tmp_path: Path) -> None:
    _small(tmp_path)
    for name in NAMES:
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert _plain(read_mnist(tmp_path, "train")) == (TRAIN, [2, 0, 1], ("0", "1", "2"))


def test_mnist_is_as_published(shared_data: Path) -> None:
    """Counts of the labels from the published set, and the first digit, a five."""
    train, test = (read_mnist(shared_data / "mnist", part) for part in ("train", "test"))
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert train.classes == test.classes == tuple("0123456789")
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert f"{train.images.mean() / 255:.4f}" == "0.1307"  # the mean that everybody takes off
    # The first row of the five that has ink, as the IDX file's bytes show it.
    row = [3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127]
    assert train.images[0, 5, 12:24, 0].tolist() == row


# ------------------------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_off_anywhere_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    path = _small(tmp_path, suffix=suffix) / f"{name}{suffix}"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        message = _message(tmp_path, "train" if name.startswith("train") else "test")
        assert message.startswith(f"{path}: ")
        assert message.endswith("copy or download the file again")


@pytest.mark.parametrize("name", NAMES)
def test_any_other_byte_in_a_header_is_named(tmp_path: Path, name: str) -> None:
    path = _small(tmp_path) / name
    whole = path.read_bytes()
    part: Part = "train" if name.startswith("train") else "test"
    for position in range(16 if "images" in name else 8):
        for flipped in (0x01, 0x02, 0x04, 0x08, 0x10, 0x80, 0xFF):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flipped]) + whole[position + 1 :])
            if "labels" in name and position >= 4:
                assert "labels" in _message(tmp_path, part)
            else:
                assert _message(tmp_path, part).startswith(f"{path}: ")


@pytest.mark.parametrize("name", NAMES[:2])
def test_any_other_byte_of_a_compressed_file_is_named_or_changes_nothing(tmp_path: Path, name: str) -> None:
    """Its date and the like mean nothing; all else has a checksum."""
    path = _small(tmp_path, suffix=".gz") / f"{name}.gz"
    whole = path.read_bytes()
    refusals: list[str] = []
    for position in range(len(whole)):
        for flipped in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flipped]) + whole[position + 1 :])
            try:
                assert _plain(read_mnist(tmp_path, "train")) == (TRAIN, [2, 0, 1], ("0", "1", "2"))
            except FacegmError as error:
                refusals.append(str(error))
    assert len(refusals) > 2 * len(whole)
    assert all(message.startswith(f"{path}: ") for message in refusals)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_bytes_behind_the_last_number_are_named(tmp_path: Path, name: str, suffix: str) -> None:
    path = _small(tmp_path, suffix=suffix) / f"{name}{suffix}"
    whole = gzip.decompress(path.read_bytes()) if suffix else path.read_bytes()
    path.write_bytes(gzip.compress(whole + b"\0") if suffix else whole + b"\0")
    assert _message(tmp_path).startswith(f"{path}: holds 3")
    assert "but more in truth" in _message(tmp_path)


def test_images_and_labels_of_different_numbers_are_named(tmp_path: Path) -> None:
    _small(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(_labels([0, 1]))
    assert _message(tmp_path).startswith(
        f"{tmp_path / NAMES[0]}: 3 images by its header, but the labels beside it are 2"
    )


def test_a_label_that_no_image_for_training_has_is_named(tmp_path: Path) -> None:
    _small(tmp_path)
    (tmp_path / NAMES[3]).write_bytes(_labels([3]))
    assert _message(tmp_path, "test").startswith(f"{tmp_path / NAMES[3]}: label 3, but {NAMES[1]} has none above 2")


@pytest.mark.parametrize("shape", [(0, 2, 3), (3, 0, 3), (3, 2, 0)])
def test_images_without_pixels_are_named(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    _small(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, *shape))
    assert _message(tmp_path).startswith(f"{tmp_path / NAMES[0]}: ")


def test_a_file_without_labels_is_named(tmp_path: Path) -> None:
    _small(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(_labels([]))
    assert _message(tmp_path).startswith(f"{tmp_path / NAMES[1]}: holds 0 numbers by its header")


@pytest.mark.parametrize("missing", [0, 1])
def test_files_that_lie_apart_are_not_joined(tmp_path: Path, missing: int) -> None:
    _small(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / NAMES[missing]).rename(tmp_path / "raw" / NAMES[missing])
    assert _message(tmp_path).startswith(f"{tmp_path}: {NAMES[missing]} missing; ")


def test_the_labels_for_training_are_wanted_for_testing_too(tmp_path: Path) -> None:
    """Else a test without the highest digit would have another number of classes."""
    _small(tmp_path)
    (tmp_path / NAMES[1]).unlink()
    assert _message(tmp_path, "test").startswith(f"{tmp_path}: {NAMES[1]} missing; ")


def test_a_folder_without_any_is_told_what_to_hold(tmp_path: Path) -> None:
    assert _message(tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: no files of MNIST; lay train-images-idx3"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    _small(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    assert "idx1-ubyte: cannot read this file: Permission denied; " in _message(tmp_path)


# ------------------------------------------------------------------------------------------------- memory


@contextmanager
def _little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("side", [2**12, 2**31, 2**32 - 1])
def test_a_header_that_claims_much_gets_no_memory_for_it(tmp_path: Path, suffix: str, side: int) -> None:
    path = _small(tmp_path, suffix=suffix) / f"{NAMES[0]}{suffix}"
    claim = struct.pack(">BBBBIII", 0, 0, 8, 3, 3, side, side) + b"few"
    path.write_bytes(gzip.compress(claim) if suffix else claim)
    with _little_memory():
        assert f"holds 3 x {side} x {side} numbers by its header, but 3 bytes in truth" in _message(tmp_path)


def test_a_file_that_expands_beyond_its_header_is_not_expanded(tmp_path: Path) -> None:
    path = _small(tmp_path, suffix=".gz") / f"{NAMES[0]}.gz"
    path.write_bytes(gzip.compress(_images(TRAIN) + bytes(256 * MIB), compresslevel=1))
    with _little_memory():
        assert "but more in truth" in _message(tmp_path)
