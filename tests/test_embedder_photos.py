"""Protects what may be given for a photo: every kind becomes the same pixels, all else is refused by its number."""

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from malformed_requests import of_two_formats
from PIL import Image

from facegm.embedding import photos as photos_module
from facegm.embedding.photos import Color, OpenedPhoto, PhotoLike, aligned_chip, open_photo, opened
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError, UsageError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
OPACITY = np.random.default_rng(1).integers(0, 256, (24, 40, 1), dtype=np.uint8)
GREY = NOISE[:, :, 0]


def png(pixels: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def pixels_of(photo: OpenedPhoto) -> np.ndarray:
    assert photo.refusal is None, photo.refusal
    assert photo.pixels is not None
    assert photo.decoded is not None
    assert photo.decoded.size == photo.pixels.shape[1::-1]
    assert photo.pixels.dtype == np.uint8
    return photo.pixels


def refusal_of(photo: Any, color: Color | None = "rgb") -> str:
    [found] = opened([photo], color)
    assert found.pixels is None
    assert found.refusal is not None
    assert found.refusal.reason is Reason.UNREADABLE
    assert found.name == "photo 0"
    return str(found.refusal)


# ------------------------------------------------------------------------------------------------- what is taken


def test_a_file_of_two_formats_is_what_the_formats_say(tmp_path: Path) -> None:
    """Else a photo could be measured as one, and decoded as another."""
    path = tmp_path / "photo.tif"
    path.write_bytes(of_two_formats(300, 200))
    with path.open("rb") as file:
        kinds: list[PhotoLike] = [path, path.read_bytes(), file]
        for found in opened(kinds, None, ("HEIF", "JPEG", "TIFF")):
            assert pixels_of(found).shape == (64, 64, 3)
    [other] = opened([path], None, ("FLI",))
    assert pixels_of(other).shape == (200, 300, 3)
    [neither] = opened([path], None, ["JPEG"])
    assert neither.refusal is not None


def test_files_and_pictures_give_the_pixels_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(NOISE))
    with path.open("rb") as file, Image.open(path) as picture:
        kinds: list[PhotoLike] = [
            path,
            str(path),
            path.read_bytes(),
            io.BytesIO(path.read_bytes()),
            file,
            picture,
            NOISE,
        ]
        found = [*opened(kinds, "rgb")]
    for photo in found:
        np.testing.assert_array_equal(pixels_of(photo), NOISE)
    assert [photo.name for photo in found] == [str(path)] * 2 + [f"photo {number}" for number in range(2, 7)]


def test_pictures_are_turned_upright_and_stay_as_they_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    path = tmp_path / "turned.png"
    Image.fromarray(NOISE).save(path, exif=exif)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(pixels_of(open_photo(picture, None)), np.rot90(NOISE, -1))
        assert picture.size == (40, 24)
        np.testing.assert_array_equal(np.asarray(picture), NOISE)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_channels_are_in_the_order_that_is_named(color: Color) -> None:
    given = NOISE if color == "rgb" else np.stack([NOISE[:, :, 2], NOISE[:, :, 1], NOISE[:, :, 0]], axis=2)
    np.testing.assert_array_equal(pixels_of(open_photo(given, color)), NOISE)
    opacity = OPACITY.astype(np.float64) / 255
    over_white = NOISE * opacity + 255 * (1 - opacity)
    found = pixels_of(open_photo(np.concatenate([given, OPACITY], axis=2), color))
    assert np.abs(found - over_white).max() < 1.01


def test_grey_needs_no_colour_order() -> None:
    np.testing.assert_array_equal(pixels_of(open_photo(GREY, None)), np.repeat(GREY[:, :, None], 3, axis=2))


@pytest.mark.parametrize("channels", [0, 3])
def test_sixteen_bits_become_eight_as_in_a_file(channels: int) -> None:
    rng = np.random.default_rng(2)
    wide = rng.integers(0, 65536, (24, 40, 3) if channels else (24, 40)).astype(np.uint16)
    exact = np.floor(wide.astype(np.float64) * 255 / 65535)
    found = pixels_of(open_photo(wide, "rgb"))
    np.testing.assert_array_equal(found if channels else found[:, :, 0], exact)
    if not channels:
        np.testing.assert_array_equal(pixels_of(open_photo(png(wide), None)), found)


def test_views_of_arrays_are_taken() -> None:
    """Crops and mirrored arrays, whose memory is not in one piece."""
    np.testing.assert_array_equal(pixels_of(open_photo(NOISE[::2, ::-1], "rgb")), NOISE[::2, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_an_array_may_be_filled_anew_once_it_was_taken(color: Color, dtype: type) -> None:
    """As whoever reads a video into one buffer does."""
    buffer: np.ndarray = np.empty(NOISE.shape, dtype)

    def frames() -> Iterator[np.ndarray]:
        for level in (10, 20, 30):
            buffer[:] = level if dtype is np.uint8 else level * 257
            yield buffer

    taken = [*opened(frames(), color)]
    assert [np.unique(pixels_of(photo)).tolist() for photo in taken] == [[10], [20], [30]]


def test_an_array_of_four_dimensions_is_as_many_photos() -> None:
    batch = np.stack([NOISE, 255 - NOISE])
    first, second = (pixels_of(photo) for photo in opened(batch, "rgb"))
    np.testing.assert_array_equal(first, NOISE)
    np.testing.assert_array_equal(second, 255 - NOISE)


def test_photos_are_taken_as_they_are_needed() -> None:
    endless: Iterator[np.ndarray] = itertools.repeat(GREY)
    assert [photo.name for photo in itertools.islice(opened(endless, None), 3)] == ["photo 0", "photo 1", "photo 2"]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("https://host.example/a.jpg", "https://host.example/a.jpg: a URL.* give the bytes"),
        (b"", "no bytes"),
        (b"text", "not an image"),
        (png(NOISE)[:-30], "truncated"),
        (io.BytesIO(b""), r"a file at its end; go back by seek\(0\)"),
        (io.StringIO("text"), "mode 'rb'"),
        (torch.zeros(3, 24, 40), r"a tensor of shape \(3, 24, 40\); .*permute\(1, 2, 0\)"),
        (NOISE / 255.0, r"array of float64 and shape \(24, 40, 3\); expected uint8.*\(photo \* 255\)"),
        (NOISE.astype(np.int32), "array of int32"),
        (NOISE > 9, "array of bool"),
        (NOISE.transpose(2, 0, 1), r"shape \(3, 24, 40\); expected grey \[height, width\], or \[height, width, chann"),
        (NOISE[:, :, :2], r"shape \(24, 40, 2\)"),
        (NOISE[:0], r"shape \(0, 40, 3\)"),
        (NOISE[None], r"shape \(1, 24, 40, 3\)"),
        (None, "NoneType; expected a path, bytes"),
        ([NOISE], "list; expected a path, bytes"),
        (Image.new("F", (9, 9)), "floating-point image"),
    ],
)
def test_what_is_no_photo_is_refused_with_its_number_and_what_to_do(photo: Any, message: str) -> None:
    assert re.search(message, refusal_of(photo)), refusal_of(photo)


def test_an_array_must_have_its_colour_order_named() -> None:
    assert "give color='rgb', or color='bgr' of what cv2.imread returns" in refusal_of(NOISE, None)
    with pytest.raises(UsageError, match="color 'RGB': take one of rgb, bgr"):
        opened([NOISE], "RGB")  # type: ignore[arg-type]


def test_too_many_pixels_have_a_reason_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegm.data.decoding.MAX_PIXELS", 24 * 40 - 1)
    arrays = (NOISE, GREY, NOISE.astype(np.uint16), np.concatenate([NOISE, OPACITY], axis=2))
    for photo in (png(NOISE), Image.fromarray(NOISE), *arrays):
        refusal = open_photo(photo, "rgb").refusal
        assert refusal is not None
        assert refusal.reason is Reason.TOO_LARGE


def test_a_single_photo_is_not_taken_for_several(tmp_path: Path) -> None:
    """A path would be taken for a list of its letters, an array for a list of its rows."""
    content = png(NOISE)
    for photo in (
        "a.jpg",
        tmp_path,
        content,
        bytearray(content),
        memoryview(content),
        io.BytesIO(b"x"),
        Image.new("L", (9, 9)),
        NOISE,
        GREY,
    ):
        with pytest.raises(TypeError, match="put a single one in brackets"):
            opened(photo, "rgb")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tensor.*permute"):
        opened(torch.zeros(2, 3, 9, 9), "rgb")


def test_whatever_a_file_raises_is_its_photos_alone() -> None:
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1, /) -> bytes:
            raise RuntimeError("connection lost")

    first, last = opened([Broken(), GREY], None)
    assert str(first.refusal) == "RuntimeError: connection lost"
    assert last.refusal is None


def test_decoding_begins_when_a_photo_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be done in another thread."""
    monkeypatch.setattr(photos_module, "decode_image", None)
    found = opened([b"content"], None)
    assert next(found).refusal is not None  # None cannot be called


# ------------------------------------------------------------------------------------------------- aligned faces


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (np.zeros((128, 128, 3), np.float32), r"face 7: array of float32; expected uint8.*\(face \* 255\)"),
        (np.full((128, 128, 3), np.nan), "face 7: array of float64"),
        (np.zeros((112, 128, 3), np.uint8), "face 7: 128x112 pixels; a face that is aligned already is square"),
        (np.zeros((128, 128), np.uint8), r"face 7: shape \(128, 128\); .* of grey, np.stack\(\[face\] \* 3, axis=2\)"),
        (np.zeros((128, 128, 1), np.uint8), r"face 7: shape \(128, 128, 1\)"),
        (torch.zeros(128, 128, 3, dtype=torch.uint8), "face 7: a tensor; give an array"),
        ("face.png", "face 7: str; expected uint8"),
    ],
)
def test_aligned_faces_of_another_kind_are_refused(face: Any, message: str) -> None:
    with pytest.raises(FacegmError, match=message):
        aligned_chip(face, 7)
