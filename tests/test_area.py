"""Protects the averages that the face detector looks at: they are torch's "area" interpolation to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from facegm.align import area
from facegm.align.area import AreaSampler

_SIDES = st.integers(1, 90)
_NEW_SIDES = st.integers(2, 90)  # a result of one pixel torch computes otherwise


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _resized(
    sampler: AreaSampler, size: tuple[int, int], rows: slice = slice(None), columns: slice = slice(None)
) -> np.ndarray:
    out = np.full((len(range(size[0])[rows]), len(range(size[1])[columns]), 4), np.nan, np.float32)
    sampler.resize(size, rows, columns, out)
    return out


def _cropped(sampler: AreaSampler, boxes: np.ndarray, side: int) -> np.ndarray:
    out = np.full((len(boxes), side, side, 4), np.nan, np.float32)
    sampler.crop(boxes, out)
    return out


def _by_torch(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    return np.asarray(interpolate(pixels, size=size, mode="area")[0].permute(1, 2, 0))


@settings(max_examples=150, deadline=None)
@given(height=_SIDES, width=_SIDES, new_height=_NEW_SIDES, new_width=_NEW_SIDES, seed=st.integers(0, 5))
def test_a_resized_photo_is_torchs(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    photo, size = _photo(height, width, seed), (new_height, new_width)
    resized = _resized(AreaSampler(photo), size)
    np.testing.assert_array_equal(resized[:, :, :3], _by_torch(photo, size))
    assert (resized[:, :, 3] == 0).all()


def test_a_part_of_a_resized_photo_is_that_part() -> None:
    photo = _photo(83, 61)
    part = _resized(AreaSampler(photo), (50, 40), slice(7, 31), slice(12, 40))
    np.testing.assert_array_equal(part[:, :, :3], _by_torch(photo, (50, 40))[7:31, 12:40])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crops_are_torchs(data: st.DataObject) -> None:
    photo = _photo(70, 90)
    boxes = []
    for _ in range(data.draw(st.integers(1, 6))):
        left, top = data.draw(st.integers(0, 89)), data.draw(st.integers(0, 69))
        boxes.append((left, top, data.draw(st.integers(left + 1, 90)), data.draw(st.integers(top + 1, 70))))
    side = data.draw(st.sampled_from([24, 48]))
    crops = _cropped(AreaSampler(photo), np.array(boxes), side)
    for crop, (left, top, right, bottom) in zip(crops, boxes, strict=True):
        np.testing.assert_array_equal(crop[:, :, :3], _by_torch(photo[top:bottom, left:right], (side, side)))


@pytest.mark.parametrize("size", [(7, 5), (40, 33), (100, 160)])
def test_a_photo_too_large_for_one_table_gives_the_same(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    photo = _photo(97, 130)
    boxes = np.array([(0, 0, 130, 97), (3, 5, 60, 62), (129, 96, 130, 97)])
    monkeypatch.setattr(area, "TABLE_LIMIT", 500)
    sampler = AreaSampler(photo)
    np.testing.assert_array_equal(_resized(sampler, size)[:, :, :3], _by_torch(photo, size))
    for crop, (left, top, right, bottom) in zip(_cropped(sampler, boxes, 24), boxes.tolist(), strict=True):
        np.testing.assert_array_equal(crop[:, :, :3], _by_torch(photo[top:bottom, left:right], (24, 24)))


def test_sums_of_a_large_white_photo_do_not_overflow() -> None:
    white = np.full((2048, 2048, 3), 255, np.uint8)
    assert (_resized(AreaSampler(white), (1, 1))[:, :, :3] == 255).all()
