"""Protects photos beyond the limit of pixels: JPEG is decoded at reduced size, upright and no smaller than it must."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegm.data import decoding
from facegm.data.decoding import decode
from facegm.data.readers.photo import UnreadablePhotoError


def _jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", **options)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (16_320, 12_240)])
def test_jpegs_of_phones_are_decoded_at_half_size(width: int, height: int) -> None:
    """108 megapixels, of which Pillow warns, and 200, which it refuses."""
    gradient = Image.linear_gradient("L")
    pixels, reduction = decode(_jpeg(gradient.resize((width, height), Image.Resampling.BILINEAR)))
    assert reduction == 2
    assert pixels.shape == (height // 2, width // 2, 3)
    expected = np.asarray(gradient.resize((1, 51), Image.Resampling.BILINEAR), int)[:, 0]
    rows = pixels[height // 204 :: height // 102, width // 4, 0].astype(int)[:51]
    assert np.abs(rows - expected).max() < 6
    assert Image.MAX_IMAGE_PIXELS == decoding.MAX_PIXELS == 89_478_485


@pytest.mark.parametrize("is_progressive", [False, True])
@pytest.mark.parametrize("limit", [89_478_485, 6400, 6399, 1600, 1599, 400])
def test_the_reduction_is_the_least_that_is_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int, is_progressive: bool
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", limit)
    blocks = np.random.default_rng(1).integers(0, 256, (20, 20)).astype(np.uint8)
    data = _jpeg(Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1)), quality=100, progressive=is_progressive)
    pixels, reduction = decode(data)
    expected = next(number for number in (1, 2, 4, 8) if (160 // number) ** 2 <= limit)
    assert reduction == expected
    side = 8 // reduction
    assert pixels.shape == (20 * side, 20 * side, 3)
    if side > 1:
        np.testing.assert_allclose(pixels[side // 2 :: side, side // 2 :: side, 0].astype(int), blocks, atol=20)
    else:
        np.testing.assert_allclose(pixels[:, :, 0].astype(int), blocks, atol=2)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(32, 300), height=st.integers(32, 300), orientation=st.integers(1, 8))
def test_sides_that_no_reduction_divides_and_turned_photos(width: int, height: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _jpeg(Image.new("RGB", (width, height)), exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MAX_PIXELS", 2000)
        pixels, reduction = decode(data)
    sides = -(-height // reduction), -(-width // reduction)
    assert pixels.shape[:2] == (sides if orientation < 5 else sides[::-1])
    assert sides[0] * sides[1] <= 2000
    assert reduction == 1 or -(-height * 2 // reduction) * -(-width * 2 // reduction) > 2000


def test_of_a_large_truncated_jpeg_no_half_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 20_000)
    data = _jpeg(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)))
    with pytest.raises(UnreadablePhotoError, match="truncated"):
        decode(data[: len(data) // 2])
