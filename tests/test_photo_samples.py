"""Protects photos of any size: where they are cropped, how resized, how classes are found, and what is refused.

Crops are held against torchvision's `RandomResizedCrop`, pixels against matrices of overlaps in float64.
"""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import transforms as torchvision_module

from facegm.data.draws import DrawPlan, EvaluationSampler, StepSampler, load
from facegm.data.photo_samples import LabelledPhotos, PhotoDraws, middle_square, random_crop, resized
from facegm.data.samples import DrawnSamples
from facegm.errors import FacegmError

SIZES = st.one_of(
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.tuples(st.integers(1, 4000), st.integers(1, 30)),
    st.tuples(st.integers(1, 30), st.integers(1, 4000)),
    st.sampled_from([(1, 1), (4000, 30), (30, 4000), (1, 4000)]),
)
UNIFORM = st.floats(0, 1, exclude_max=True)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos of as many sizes and three classes, kept without loss."""
    sizes = [(50, 40), (33, 67), (21, 21), (64, 20), (90, 61), (40, 41), (1, 1)]
    for number, (height, width) in enumerate(sizes):
        folder = tmp_path / "photos" / ("ape", "bee", "cat")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(height, width)).save(folder / f"{number}.png")
    return tmp_path / "photos"


# ------------------------------------------------------------------------------------------------- where


@settings(max_examples=300, deadline=None, derandomize=True)
@given(SIZES, st.lists(st.tuples(UNIFORM, UNIFORM), min_size=10, max_size=10), UNIFORM, UNIFORM)
def test_a_crop_lies_within_the_photo_and_its_area_and_ratio_within_their_ranges(
    size: tuple[int, int], tries: list[tuple[float, float]], top: float, left: float
) -> None:
    height, width = size
    area, ratio = np.array(tries).T
    box = random_crop(height, width, area, ratio, top, left)
    assert all(isinstance(number, int) for number in box)
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert (box.width + 0.5) / (box.height - 0.5) >= 3 / 4  # but for the rounding to pixels
    assert (box.width - 0.5) / (box.height + 0.5) <= 4 / 3
    is_whole_or_less_what_is_too_long = box.height == height or box.width == width
    assert (box.height + 0.5) * (box.width + 0.5) >= 0.08 * height * width or is_whole_or_less_what_is_too_long


class ScriptedTorch:
    """What torchvision's crop asks of torch, with given uniform numbers in place of random ones."""

    log, exp, tensor = staticmethod(torch.log), staticmethod(torch.exp), staticmethod(torch.tensor)

    def __init__(self, tries: np.ndarray, places: tuple[float, float]) -> None:
        self._tries, self._places = iter(tries.ravel().tolist()), iter(places)

    def empty(self, _: int) -> SimpleNamespace:
        uniform = next(self._tries)
        return SimpleNamespace(uniform_=lambda low, high: torch.as_tensor(low + uniform * (high - low)))

    def randint(self, low: int, high: int, *, size: tuple[int]) -> torch.Tensor:
        assert size == (1,)
        return torch.tensor([low + int(next(self._places) * (high - low))])


def test_crops_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    differing = fell_back = 0
    for number in range(600):
        sizes = rng.integers(1, 700, 2) if number % 2 else rng.permutation(np.array([rng.integers(1, 40), 900]))
        height, width = sizes.tolist()
        tries, (top, left) = rng.random((10, 2)), rng.random(2)
        with monkeypatch.context() as patch:
            patch.setattr(torchvision_module, "torch", ScriptedTorch(tries, (top, left)))
            photo = torch.empty(3, height, width, device="meta")
            expected = transforms.RandomResizedCrop.get_params(photo, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
        found = random_crop(height, width, tries[:, 0], tries[:, 1], top, left)
        assert np.abs(np.subtract(found, expected)).max() <= 1
        differing += tuple(found) != tuple(expected)
        fell_back += found.height * found.width < 0.07 * height * width
    assert differing <= 6  # it computes in float32, before it rounds to pixels
    assert fell_back > 100


def test_draws_are_uniform_and_independent(photos: Path) -> None:
    draws = LabelledPhotos.of_source(photos).draw(np.zeros(4_000, np.int64), np.random.default_rng(2))
    assert isinstance(draws, PhotoDraws)
    assert draws.area.shape == draws.ratio.shape == (4_000, 10)
    columns = np.column_stack([draws.area, draws.ratio, draws.top, draws.left])
    assert 0 <= columns.min() < columns.max() < 1
    np.testing.assert_allclose(columns.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(columns.std(axis=0), 12**-0.5, atol=0.01)
    correlation = np.corrcoef(np.column_stack([columns, draws.mirrored]), rowvar=False)
    assert np.abs(correlation - np.eye(23)).max() < 0.07
    assert 0.47 < draws.mirrored.mean() < 0.53


# ------------------------------------------------------------------------------------------------- pixels


def overlaps(length: int, to: int) -> np.ndarray:
    """Weights [to, length] of the pixels that each new one is made of, along one side."""
    new, old = np.arange(to)[:, None], np.arange(length)
    if to <= length:  # the share of each that it covers
        ends, starts = np.minimum((new + 1) * length / to, old + 1), np.maximum(new * length / to, old)
        return np.asarray(np.maximum(ends - starts, 0) * to / length)
    centre = np.clip((new + 0.5) * length / to - 0.5, 0, length - 1)  # the two nearest
    return np.asarray(np.maximum(1 - np.abs(centre - old), 0))


@pytest.mark.parametrize(("height", "width"), [(50, 40), (97, 31), (13, 80), (9, 11), (24, 24), (240, 24), (1, 1)])
def test_resizing_averages_what_shrinks_and_interpolates_what_grows(height: int, width: int) -> None:
    photo = noise(height, width)
    expected = np.einsum("yh,hwc,xw->yxc", overlaps(height, 24), photo.astype(np.float64), overlaps(width, 24))
    assert np.abs(resized(photo, 24, 24) - expected).max() <= 1.5  # both rounds


@pytest.mark.parametrize(("height", "width"), [(50, 40), (33, 67), (21, 20), (97, 60), (32, 32), (64, 48)])
def test_evaluation_is_a_slice_of_the_resized_photo(height: int, width: int) -> None:
    photo = noise(height, width)
    shorter = min(height, width)
    new_height, new_width = int(32 * height / shorter), int(32 * width / shorter)
    whole = np.einsum(
        "yh,hwc,xw->yxc", overlaps(height, new_height), photo.astype(np.float64), overlaps(width, new_width)
    )
    top, left = (new_height - 25) // 2, (new_width - 25) // 2
    found = middle_square(photo, 25, 32)
    assert np.abs(found - whole[top : top + 25, left : left + 25]).max() <= 1.5


@pytest.mark.parametrize(("height", "width"), [(300, 200), (333, 120), (100, 900), (31, 4000), (30, 61)])
def test_evaluation_is_near_torchvisions(height: int, width: int) -> None:
    """Protects the place of the middle, also in photos of which the ends are cut off first, on a smooth photo."""
    corners = np.random.default_rng(0).uniform(0, 255, (4, 4, 3))
    size = 2 * min(height, width)
    smooth = cv2.resize(corners, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    photo = np.zeros((height, width, 3), np.uint8)
    rows, columns = min(height, size), min(width, size)
    top, left = (height - rows) // 2, (width - columns) // 2
    photo[top : top + rows, left : left + columns] = smooth[:rows, :columns]
    expected = transforms.CenterCrop(56)(transforms.Resize(64)(Image.fromarray(photo)))
    difference = np.abs(middle_square(photo, 56, 64) - np.asarray(expected).astype(float))
    assert difference.mean() < 2  # which moves by 3 where the place is a pixel off


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SIZES)
def test_every_size_has_a_middle(size: tuple[int, int]) -> None:
    photo = np.full((*size, 3), 77, np.uint8)
    found = middle_square(photo, 14, 16)
    assert found.shape == (14, 14, 3)
    assert (found == 77).all()


# ------------------------------------------------------------------------------------------------- data set


def test_a_batch_has_the_crops_of_its_photos(photos: Path) -> None:
    samples = LabelledPhotos.of_source(photos, side=24, resize=32)
    numbers = np.array([6, 0, 3, 5])
    draws = samples.draw(numbers, np.random.default_rng(5))
    assert isinstance(draws, PhotoDraws)
    batch = samples[DrawnSamples(numbers, draws)]
    assert set(draws.mirrored.tolist()) == {True, False}
    assert batch.images.shape == (4, 24, 24, 3)
    assert batch.draws == ()
    assert batch.labels.tolist() == samples.labels[numbers].tolist()
    for row, number in enumerate(numbers):
        photo = np.asarray(Image.open(samples.keys[number])).astype(np.float64)
        height, width = photo.shape[:2]
        box = random_crop(height, width, draws.area[row], draws.ratio[row], draws.top[row], draws.left[row])
        part = photo[box.top : box.top + box.height, box.left : box.left + box.width]
        if draws.mirrored[row]:
            part = part[:, ::-1]
        expected = np.einsum("yh,hwc,xw->yxc", overlaps(box.height, 24), part, overlaps(box.width, 24))
        assert np.abs(batch.images[row].numpy() - expected).max() <= 1.5


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_workers_give_the_same_batches_and_evaluate_in_order(photos: Path) -> None:
    samples = LabelledPhotos.of_source(photos, side=24, resize=32)
    plan = DrawPlan(labels=samples.labels, batch_size=3, epochs=3, seed=0)
    streamed = list(load(samples, StepSampler(plan, samples), workers=2))
    for batch, drawn in zip(streamed, StepSampler(plan, samples), strict=True):
        assert torch.equal(batch.images, samples[drawn].images)
    resumed = list(load(samples, StepSampler(plan, samples, first_step=4), workers=0))
    assert all(torch.equal(a.images, b.images) for a, b in zip(resumed, streamed[4:], strict=True))
    whole = torch.cat([batch.images for batch in load(samples, EvaluationSampler(samples, 3), workers=2)])
    for key, found in zip(samples.keys, whole, strict=True):
        np.testing.assert_array_equal(found, middle_square(np.asarray(Image.open(key).convert("RGB")), 24, 32))


def test_classes_are_folders_and_may_be_those_of_another_set(photos: Path, tmp_path: Path) -> None:
    samples = LabelledPhotos.of_source(photos, side=24, resize=32)
    assert samples.classes == ("ape", "bee", "cat")
    assert [Path(key).parent.name for key in samples.keys] == [samples.classes[label] for label in samples.labels]
    assert (samples.can_be_kept, samples.is_in_memory, samples.image_bytes, len(samples)) == (False, False, 1728, 7)
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert LabelledPhotos.of_source(moved, side=24, resize=32).fingerprint == samples.fingerprint
    (moved / "ape" / "6.png").rename(moved / "bee" / "6.png")
    assert LabelledPhotos.of_source(moved, side=24, resize=32).fingerprint != samples.fingerprint
    shutil.rmtree(moved / "ape")
    assert set(LabelledPhotos.of_source(moved, classes=samples.classes).labels.tolist()) == {1, 2}
    with pytest.raises(FacegmError, match=r"ape.0\.png: its class, ape, is none of 2: bee, cat, \.\.\."):
        LabelledPhotos.of_source(photos, classes=["bee", "cat"])


def test_a_listing_names_photos_and_classes(photos: Path) -> None:
    listing = photos.parent / "list.txt"
    listing.write_text("photos/ape/0.png\tfirst\nphotos/bee/1.png\tsecond\n")
    samples = LabelledPhotos.of_source(listing, side=24, resize=32)
    assert samples.classes == ("first", "second")
    assert [Path(key).name for key in samples.keys] == ["0.png", "1.png"]
    batch = samples[DrawnSamples(np.array([1]), ())]
    assert batch.labels.tolist() == [1]


def damage(photo: Path, how: str) -> None:
    if how == "truncated":
        os.truncate(photo, photo.stat().st_size // 2)
    elif how == "missing":
        photo.unlink()
    else:
        photo.write_bytes({"empty": b"", "not an image": b"<html>"}[how])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "truncated|Truncated"),
        ("missing", "No such file"),
        ("empty", "empty file"),
        ("not an image", "not an image"),
    ],
)
def test_a_damaged_photo_is_named(photos: Path, how: str, reason: str, workers: int) -> None:
    samples = LabelledPhotos.of_source(photos, side=24, resize=32)
    damage(photos / "bee" / "4.png", how)
    with pytest.raises(FacegmError, match=rf"bee/4\.png: .*({reason}).*; replace this photo, or take it out"):
        list(load(samples, EvaluationSampler(samples, 7), workers=workers))


def test_what_cannot_be_trained_on_is_refused(photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))

    def made(labels: Any = (0, 1, 2, 0, 1, 2, 0), **changes: Any) -> LabelledPhotos:
        return LabelledPhotos(paths, np.array(labels), **{"classes": "abc", "side": 24, "resize": 32, **changes})

    assert len(made()) == 7
    with pytest.raises(FacegmError, match=r"labels: one a sample is needed, \[7\], found \[2\]"):
        made([0, 1])
    with pytest.raises(FacegmError, match="0 to 1 are needed for 2 classes, found 0 to 2"):
        made(classes="ab")
    with pytest.raises(FacegmError, match="side: 40 pixels, must be from 1 to the 32 that photos are resized to"):
        made(side=40)
    with pytest.raises(FacegmError, match="photos of many sizes cannot be kept decoded"):
        made().keep_decoded(torch.device("cpu"))
    with pytest.raises(FacegmError, match=r"ape/0\.png: lies in no class's folder; expected class/photo.jpg"):
        LabelledPhotos.of_source(photos / "ape")
    shutil.make_archive(str(photos.parent / "packed"), "tar", photos)
    with pytest.raises(FacegmError, match=r"packed\.tar: photos are read from files of their own; unpack it"):
        LabelledPhotos.of_source(photos.parent / "packed.tar")
