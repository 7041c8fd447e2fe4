"""Protects the reading of photos: every kind of picture becomes upright RGB pixels, every broken one a reason."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facegm.data.decoding import decode, read_photo
from facegm.data.readers.photo import UnreadablePhotoError


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


NOISE = _noise(24, 40, 3)

# ------------------------------------------------------------------------------------------------- pixels


# What EXIF 2.3 says of each orientation, as numpy operations that bring the stored pixels upright.
UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_exif_orientation_is_undone(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = NOISE if suffix != "jpg" else NOISE[::8, ::8].repeat(16, axis=0).repeat(16, axis=1)  # JPEG keeps blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, **_lossless(suffix))

    photo = read_photo(path)

    expected = UPRIGHT[orientation](stored)
    assert photo.shape == expected.shape
    assert photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - expected).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(NOISE).save(path, exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_photo(path), np.asarray(ImageOps.exif_transpose(image)))


def _lossless(suffix: str) -> dict[str, Any]:
    if suffix == "webp":
        return {"lossless": True}
    return {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}


def _exif_block(*entries: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


ROTATED = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
WIDTH_AS_TEXT = struct.pack("<HHI4s", 0x0100, 2, 4, b"AAAA")
BEYOND_THE_END = struct.pack("<HHII", 0x011A, 5, 1, 0xFFFFF)


@pytest.mark.parametrize(
    ("suffix", "exif", "rotated"),
    [
        ("webp", b"Exif\0\0MM", False),
        ("jpg", b"Exif\0\0neither II nor MM", False),
        ("jpg", _exif_block(WIDTH_AS_TEXT, ROTATED), True),
        ("jpg", _exif_block(ROTATED, BEYOND_THE_END), True),
    ],
)
def test_damaged_metadata_does_not_lose_a_good_photo(tmp_path: Path, suffix: str, exif: bytes, rotated: bool) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(NOISE).save(path, exif=exif)
    assert read_photo(path).shape == ((40, 24, 3) if rotated else (24, 40, 3))


def test_grey_black_and_white_and_palette_pictures(tmp_path: Path) -> None:
    grey = NOISE[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))

    bits = grey > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "bits.png"), np.stack([bits * 255] * 3, axis=-1))

    colours = _noise(4, 3)
    indices = _noise(9, 7) % 4
    _palette(indices, colours).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "palette.png"), colours[indices])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_entry_becomes_white(tmp_path: Path, suffix: str) -> None:
    colours = np.array([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
    indices = _noise(9, 7) % 4
    _palette(indices, colours).save(tmp_path / f"photo.{suffix}", transparency=2)
    colours[2] = 255
    np.testing.assert_array_equal(read_photo(tmp_path / f"photo.{suffix}"), colours[indices])


def _palette(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    rgba = _noise(16, 16, 4)
    rgba[:4, :, 3], rgba[4:8, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / f"photo.{suffix}", **_lossless(suffix), **_exact(suffix))

    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_photo(tmp_path / f"photo.{suffix}") - expected).max() <= 1


def _exact(suffix: str) -> dict[str, Any]:
    return {"exact": True} if suffix == "webp" else {}  # WebP otherwise drops the colour under full transparency


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    grey, alpha = _noise(2, 16, 16)
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    expected = grey * (alpha / 255) + 255 - alpha.astype(float)
    assert np.abs(read_photo(tmp_path / "la.png") - expected[..., None]).max() <= 1


@pytest.mark.parametrize(("suffix", "tolerance"), [("tif", 1), ("jpg", 6)])
def test_cmyk(tmp_path: Path, suffix: str, tolerance: int) -> None:
    ink = _noise(3, 5, 4).repeat(16, axis=0).repeat(16, axis=1)
    Image.frombytes("CMYK", (80, 48), ink.tobytes()).save(tmp_path / f"photo.{suffix}", **_lossless(suffix))
    expected = (255 - ink[:, :, :3].astype(float)) * (255 - ink[:, :, 3:].astype(float)) / 255
    assert np.abs(read_photo(tmp_path / f"photo.{suffix}") - expected).max() <= tolerance


SIXTEEN_BIT = np.array([[0, 200, 256, 257, 514], [4660, 32768, 65278, 65534, 65535]], np.uint16)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _tiff(values: np.ndarray, order: str) -> bytes:
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def _sixteen_bit_files() -> dict[str, bytes]:
    # Each PNG row begins with its filter, 0 for none; PNG is big-endian.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN_BIT)
    return {
        "grey.png": _png(5, 2, 16, 0, rows),
        "intel.tif": _tiff(SIXTEEN_BIT, "<"),
        "motorola.tif": _tiff(SIXTEEN_BIT, ">"),
    }


@pytest.mark.parametrize("name", _sixteen_bit_files())
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_sixteen_bit_files()[name])
    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(photo[0, :, 0], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(photo[1, :, 2], [18, 127, 254, 254, 255])
    assert (photo == photo[:, :, :1]).all()


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("#c02010", "#1020c0", "#10c020")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_array_equal(read_photo(path), np.broadcast_to([0xC0, 0x20, 0x10], (8, 12, 3)))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    suffix=st.sampled_from(["png", "bmp", "tif", "webp", "tiff"]),
    seed=st.integers(0, 99),
)
def test_lossless_files_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, suffix: str, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / f"lossless.{suffix}"
    Image.fromarray(pixels).save(path, **_lossless(suffix))
    np.testing.assert_array_equal(read_photo(path), pixels)


# ------------------------------------------------------------------------------------------------- failures


def _encoded(tmp_path: Path, suffix: str) -> bytes:
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(NOISE).save(path)
    return path.read_bytes()


def _reason(path: Path) -> str:
    with pytest.raises(UnreadablePhotoError) as caught:
        read_photo(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"Dear sir, here is my photo.", "not an image"), (b"\xff\xd8\xff", "not an image")],
)
def test_empty_files_and_text_are_named_as_such(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert _reason(path) == reason


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_files_fail_instead_of_giving_half_a_picture(tmp_path: Path, suffix: str, share: float) -> None:
    content = _encoded(tmp_path, suffix)
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    reason = _reason(path)
    assert reason
    assert str(tmp_path) not in reason
    if suffix in {"jpg", "png"}:
        assert "truncated" in reason.lower()


def test_damaged_pixels_fail(tmp_path: Path) -> None:
    content = bytearray(_encoded(tmp_path, "png"))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "photo.png").write_bytes(content)
    assert _reason(tmp_path / "photo.png")


def test_pictures_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, np.nan], [7, 1]], np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in _reason(tmp_path / "float.tif")
    for value in (-1, 65536):
        Image.fromarray(np.array([[0, value]], np.int32)).save(tmp_path / "wide.tif")
        assert "outside 0 to 65535" in _reason(tmp_path / "wide.tif")


@pytest.mark.parametrize("side", [10_000, 30_000])  # Pillow warns of the first and refuses the second
def test_a_photo_that_is_too_large_is_refused_in_plain_words(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(side, side, 8, 0, bytes(1000)))
    reason = _reason(tmp_path / "bomb.png")
    assert reason == "more than 89 megapixels; make it smaller, or save it as JPEG, which is decoded at reduced size"


@pytest.mark.parametrize("limit", [None, 1000])
def test_the_limit_is_the_same_whatever_the_application_has_told_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    (tmp_path / "bomb.png").write_bytes(_png(10_000, 10_000, 8, 0, bytes(1000)))
    assert "89 megapixels" in _reason(tmp_path / "bomb.png")
    Image.fromarray(NOISE.repeat(8, axis=0).repeat(8, axis=1)).save(tmp_path / "photo.jpg")
    assert decode((tmp_path / "photo.jpg").read_bytes())[0].shape == (192, 320, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


# ------------------------------------------------------------------------------------------------- HEIF


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_heif_is_decoded_by_its_plugin_and_turned_once(orientation: int) -> None:
    """The plug-in turns photos itself, by the container's own way to say it and by EXIF."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    pillow_heif.register_heif_opener()
    Image.fromarray(pixels).save(file, "HEIF", exif=exif.tobytes(), quality=95)
    decoded, reduction = decode(file.getvalue())
    assert reduction == 1
    expected = UPRIGHT[orientation](pixels)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 5


def test_threads_that_decode_at_once_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    """Protects the process from one thread's filters, and bombs from being let through by another's."""
    (tmp_path / "photo.png").write_bytes(_png(8, 8, 8, 0, bytes(8 * 9)))
    (tmp_path / "bomb.png").write_bytes(_png(20_000, 20_000, 8, 0, bytes(1000)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        photos = [threads.submit(read_photo, tmp_path / "photo.png") for _ in range(100)]
        bombs = [threads.submit(_reason, tmp_path / "bomb.png") for _ in range(100)]
    assert {photo.result().shape for photo in photos} == {(8, 8, 3)}
    assert all("megapixels" in bomb.result() for bomb in bombs)
    assert warnings.filters == before


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    assert _reason(tmp_path / "folder.jpg") == "a folder, not a file"
    assert _reason(tmp_path / "dangling.jpg") == "a link to a missing file"
    assert _reason(tmp_path / "missing.jpg") == "No such file or directory"
    assert _reason(tmp_path / ("x" * 300 + ".jpg")) == "File name too long"


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert _reason(tmp_path / "pipe.jpg") == "not a regular file"
    assert _reason(Path("/dev/zero")) == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(_encoded(tmp_path, "png"))
    (tmp_path / "secret.png").chmod(0)
    assert _reason(tmp_path / "secret.png") == "Permission denied"
