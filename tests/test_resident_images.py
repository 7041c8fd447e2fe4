"""Protects images that lie in memory: what is cropped out of them, how it is drawn, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.data.draws import DrawPlan, EvaluationSampler, StepSampler, load
from facegm.data.preprocessing import Padding, crop_and_mirror
from facegm.data.resident_images import CropDraws, PaddedCrop, ResidentImages
from facegm.data.samples import Batch, DrawnSamples
from facegm.errors import FacegmError

NUMPY_PADDING: dict[Padding, Any] = {"reflect": {"mode": "reflect"}, "zero": {"mode": "constant"}}


def noise(count: int, height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def images_of(pixels: np.ndarray, classes: int = 10, **crop: Any) -> ResidentImages:
    return ResidentImages(pixels, np.arange(len(pixels)) % classes, classes=classes, crop=PaddedCrop(**crop))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_crops_are_those_of_a_padded_copy(data: st.DataObject) -> None:
    """Protects the arithmetic of positions against numpy's padding and plain slicing, at every place and border."""
    height, width, channels = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))
    border: Padding = data.draw(st.sampled_from(["reflect", "zero"]))
    padding = data.draw(st.integers(0, min(height, width) - 1 if border == "reflect" else 12))
    side = data.draw(st.integers(1, min(height, width) + 2 * padding))
    pixels = noise(4, height, width, channels)
    samples = images_of(pixels, side=side, padding=padding, border=border)
    crop = PaddedCrop(side=side, padding=padding, border=border)
    top = data.draw(st.lists(st.integers(-padding, height + padding - side), min_size=3, max_size=3))
    left = data.draw(st.lists(st.integers(-padding, width + padding - side), min_size=3, max_size=3))
    mirrored = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    numbers = np.array([3, 0, 3])

    batch = samples[DrawnSamples(numbers, CropDraws(np.array(top), np.array(left), np.array(mirrored)))]
    found = crop.cut(batch)

    assert batch.labels.tolist() == numbers.tolist()
    padded = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding), (0, 0)), **NUMPY_PADDING[border])
    for row, number in enumerate(numbers):
        y, x = top[row] + padding, left[row] + padding
        expected = padded[number, y : y + side, x : x + side]
        np.testing.assert_array_equal(found[row].numpy(), expected[:, ::-1] if mirrored[row] else expected)


def test_draws_reach_every_place_of_the_padded_image_equally_often() -> None:
    samples = images_of(noise(400, 6, 9, 3), side=5, padding=2)
    draws = samples.draw(np.arange(400).repeat(30), np.random.default_rng(1))
    for found, last in ((draws.top, 6 + 2 - 5), (draws.left, 9 + 2 - 5)):
        places, counts = np.unique(found, return_counts=True)
        assert places.tolist() == list(range(-2, last + 1))
        assert np.abs(counts / 12_000 - 1 / len(places)).max() < 0.015
    assert abs(draws.mirrored.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.03
    digits = images_of(noise(400, 6, 9, 3), side=5, padding=2, mirror=False)
    assert not digits.draw(np.arange(400), np.random.default_rng(1)).mirrored.any()


def test_draws_are_a_function_of_seed_and_step_whatever_the_number_of_processes() -> None:
    samples = images_of(noise(24, 6, 6, 1), side=6, padding=2)
    plan = DrawPlan(labels=samples.labels, batch_size=8, epochs=2, seed=3)
    whole = [samples[drawn] for drawn in StepSampler(plan, samples)]
    later = [samples[drawn] for drawn in StepSampler(plan, samples, first_step=4)]
    parts = [[samples[drawn] for drawn in StepSampler(plan, samples, rank=r, world_size=2)] for r in range(2)]
    crop = PaddedCrop(side=6, padding=2)
    for step, batch in enumerate(whole):
        halves = torch.cat([crop.cut(parts[rank][step]) for rank in range(2)])
        assert torch.equal(crop.cut(batch), halves)
        assert step < 4 or torch.equal(crop.cut(batch), crop.cut(later[step - 4]))
    assert len({crop.cut(batch).numpy().tobytes() for batch in whole}) == 6


@pytest.mark.parametrize(("side", "expected"), [(4, np.s_[1:5, 2:6]), (6, np.s_[:6, 1:7])])
def test_evaluation_takes_the_middle_of_all_images_in_order(side: int, expected: Any) -> None:
    pixels = noise(7, 6, 8, 3)
    samples = images_of(pixels, classes=3, side=side)
    batches = list(load(samples, EvaluationSampler(samples, 3), workers=2))
    crop = PaddedCrop(side=side)
    np.testing.assert_array_equal(torch.cat([crop.cut(batch) for batch in batches]), pixels[(slice(None), *expected)])
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_crop_larger_than_the_image_has_it_in_its_middle() -> None:
    pixels = noise(1, 3, 4, 1)
    samples = images_of(pixels, side=6, padding=2, border="zero")
    drawn = DrawnSamples(np.zeros(1, np.int64), samples.draw(np.zeros(1, np.int64), None))
    found = PaddedCrop(side=6, padding=2, border="zero").cut(samples[drawn])[0].numpy()
    np.testing.assert_array_equal(found, np.pad(pixels[0], ((2, 1), (1, 1), (0, 0))))


def test_images_and_labels_are_gathered_where_they_are_kept() -> None:
    samples = images_of(noise(5, 6, 6, 3), side=4)
    samples.keep_decoded(torch.device("meta"))  # a device that is not the host, everywhere
    drawn = DrawnSamples(np.array([4, 1]), samples.draw(np.array([4, 1]), None))
    batch = samples[drawn]
    assert batch.images.device.type == batch.labels.device.type == "meta"
    assert batch.images.shape == (2, 6, 6, 3)


def test_read_only_arrays_of_any_label_type_are_taken() -> None:
    pixels = np.frombuffer(bytes(range(48)), np.uint8).reshape(3, 4, 4, 1)
    samples = ResidentImages(pixels, np.array([2, 0, 1], np.uint8), classes=3, crop=PaddedCrop(side=4, padding=0))
    assert (samples.image_bytes, samples.can_be_kept, samples.is_in_memory, len(samples)) == (16, True, True, 3)
    batch = samples[DrawnSamples(np.array([1]), samples.draw(np.array([1]), None))]
    assert batch.labels.dtype == torch.int64
    assert batch.images.flatten().tolist() == list(range(16, 32))


def test_the_fingerprint_is_that_of_pixels_and_labels() -> None:
    pixels, labels = noise(3, 4, 4, 1), np.array([0, 1, 1])

    def fingerprint(pixels: np.ndarray, labels: np.ndarray) -> str:
        return ResidentImages(pixels, labels, classes=2, crop=PaddedCrop(side=4, padding=0)).fingerprint

    changed = pixels.copy()
    changed[2, 3, 3, 0] ^= 1
    assert fingerprint(pixels, labels) == fingerprint(pixels.copy(), labels.astype(np.uint8))
    assert len({fingerprint(pixels, labels), fingerprint(changed, labels), fingerprint(pixels, labels[::-1])}) == 3


GOOD, LABELS = np.zeros((4, 6, 6, 3), np.uint8), np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("pixels", "labels", "crop", "message"),
    [
        (GOOD.astype(np.float32), LABELS, {}, "uint8, 0 to 255, is needed, found float32"),
        (GOOD[..., 0], LABELS, {}, r"\[samples, height, width, channels\] .* found \[4, 6, 6\]"),
        (GOOD[..., :2], LABELS, {}, r"found \[4, 6, 6, 2\]"),
        (GOOD.transpose(0, 3, 1, 2), LABELS, {}, r"found \[4, 3, 6, 6\]"),
        (GOOD, LABELS[:3], {}, r"labels: one a sample is needed, \[4\], found \[3\]"),
        (GOOD, LABELS[:, None], {}, r"found \[4, 1\]"),
        (GOOD, LABELS.astype(np.float64), {}, "labels: whole numbers .* found float64"),
        (GOOD, LABELS - 1, {}, "0 to 2 are needed for 3 classes, found -1 to 1; number the classes from 0"),
        (GOOD, LABELS + 1, {}, "found 1 to 3"),
        (GOOD[:0], LABELS[:0], {}, "there are no samples"),
        (GOOD, LABELS, {"side": 11, "padding": 2}, "crops of 11 pixels do not fit into images of 6 x 6 padded by 2"),
        (GOOD, LABELS, {"padding": 6}, "cannot be padded by 6 pixels of themselves"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    pixels: np.ndarray, labels: np.ndarray, crop: dict[str, Any], message: str
) -> None:
    with pytest.raises(FacegmError, match=message):
        ResidentImages(pixels, labels, classes=3, crop=PaddedCrop(**{"side": 6, **crop}))


def test_wrong_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="side: 0, must be at least 1"):
        PaddedCrop(side=0)
    with pytest.raises(ValueError, match="padding: -1, must be at least 0"):
        PaddedCrop(side=4, padding=-1)


def test_zeros_may_reach_further_than_the_image() -> None:
    images = torch.full((1, 2, 2, 1), 9, dtype=torch.uint8)
    corner = torch.tensor([-5])
    found = crop_and_mirror(images, corner, corner, torch.tensor([False]), 12, "zero")
    expected = np.zeros((12, 12), np.uint8)
    expected[5:7, 5:7] = 9
    np.testing.assert_array_equal(found[0, :, :, 0], expected)


def test_a_batch_keeps_its_draws_when_it_is_cut_into_parts() -> None:
    """Protects accumulation over parts of a batch, which crop for themselves."""
    samples, crop = images_of(noise(6, 6, 6, 1), side=6), PaddedCrop(side=6)
    batch: Batch = samples[DrawnSamples(np.arange(6), samples.draw(np.arange(6), np.random.default_rng(0)))]
    assert torch.equal(torch.cat([crop.cut(part) for part in batch.parts(3)]), crop.cut(batch))
