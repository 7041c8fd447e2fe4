"""The order of the faces and their augmentation: a function of seed and step alone, shared among ranks."""

import numpy as np
import pytest

from facegm.data.draws import DrawPlan, Draws, StepSampler, samples_of_step
from facegm.errors import FacegmError


def plan(**changes: int | float) -> DrawPlan:
    numbers = {"batch_size": 12, "epochs": 3, "seed": 7, "jitter": 0.2} | changes
    labels = np.repeat(np.arange(4), (30, 11, 8, 1))  # 50 faces, very unequally many of each identity
    return DrawPlan(labels=labels, slack=4, mirror=True, **numbers)  # type: ignore[arg-type]


def joined(steps: list[Draws]) -> Draws:
    return Draws(*map(np.concatenate, zip(*steps, strict=True)))


def assert_same(a: Draws, b: Draws) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_draws_each_face_at_most_once_and_epochs_differ() -> None:
    steps = list(StepSampler(plan()))
    assert len(steps) == plan().steps == 12
    epochs = [joined(steps[start : start + 4]).sample.tolist() for start in (0, 4, 8)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ranks_share_the_global_batch_in_its_order() -> None:
    alone = list(StepSampler(plan()))
    parts = [list(StepSampler(plan(), rank=rank, world_size=3)) for rank in range(3)]
    for step in range(12):
        assert_same(joined([part[step] for part in parts]), alone[step])
        np.testing.assert_array_equal(samples_of_step(plan(), step), alone[step].sample)


def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch() -> None:
    assert_same(joined(list(StepSampler(plan(), first_step=5))), joined(list(StepSampler(plan()))[5:]))


def test_seed_changes_order_and_augmentation() -> None:
    a, b = next(iter(StepSampler(plan()))), next(iter(StepSampler(plan(seed=8))))
    assert all((one != other).any() for one, other in zip(a, b, strict=True))


def test_augmentation_covers_its_range_and_no_more() -> None:
    draws = joined(list(StepSampler(plan(epochs=60))))
    assert set(draws.top) == set(draws.left) == {0, 1, 2, 3, 4}
    assert 0.45 < draws.mirrored.mean() < 0.55
    contrast, brightness = draws.contrast, draws.brightness
    assert 0.8 <= contrast.min() < 0.81
    assert 1.19 < contrast.max() <= 1.2
    assert -0.2 <= brightness.min() < -0.19
    assert 0.19 < brightness.max() <= 0.2


def test_balanced_draws_show_every_identity_equally_often_and_of_each_all_faces() -> None:
    balanced = plan(balanced=True, batch_size=10, epochs=40)
    faces = joined(list(StepSampler(balanced))).sample.reshape(40, 50)
    counts = np.apply_along_axis(np.bincount, 1, balanced.labels[faces])
    assert np.abs(counts - 12.5).max() < 1
    for epoch in faces:  # within an epoch a face comes again only after all others of its identity
        for identity, number in enumerate((30, 11, 8, 1)):
            drawn = np.bincount(epoch[balanced.labels[epoch] == identity], minlength=50)[balanced.labels == identity]
            assert len(drawn) == number
            assert drawn.max() - drawn.min() <= 1
    assert set(faces.ravel()) == set(range(50))


def test_unusable_batches_are_refused() -> None:
    with pytest.raises(FacegmError, match=r"50 images do not fill one batch of 64; lower train\.batch_size"):
        plan(batch_size=64)
    with pytest.raises(FacegmError, match="does not divide among 5 processes"):
        StepSampler(plan(), world_size=5)
