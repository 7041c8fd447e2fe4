"""The order of the faces and their augmentation: a function of seed and step alone, shared among ranks."""

import numpy as np
import pytest

from facegm.data.draws import Draw, DrawPlan, StepSampler
from facegm.data.preprocessing import Preprocessing
from facegm.errors import FacegmError


def plan(**changes: int | float) -> DrawPlan:
    numbers = {"faces": 50, "batch_size": 12, "epochs": 3, "seed": 7, "jitter": 0.2} | changes
    return DrawPlan(preprocessing=Preprocessing(face_size=64, crop_size=60), **numbers)  # type: ignore[arg-type]


def test_an_epoch_draws_each_face_at_most_once_and_epochs_differ() -> None:
    steps = list(StepSampler(plan()))
    assert len(steps) == plan().steps == 12
    epochs = [[draw.face for step in steps[start : start + 4] for draw in step] for start in (0, 4, 8)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ranks_share_the_global_batch_in_its_order() -> None:
    alone = list(StepSampler(plan()))
    parts = [list(StepSampler(plan(), rank=rank, world_size=3)) for rank in range(3)]
    assert [[draw for part in parts for draw in part[step]] for step in range(12)] == alone


def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch() -> None:
    assert list(StepSampler(plan(), first_step=5)) == list(StepSampler(plan()))[5:]


def test_seed_changes_order_and_augmentation() -> None:
    a, b = next(iter(StepSampler(plan()))), next(iter(StepSampler(plan(seed=8))))
    assert [draw.face for draw in a] != [draw.face for draw in b]
    assert [draw[1:] for draw in a] != [draw[1:] for draw in b]


def test_augmentation_covers_its_range_and_no_more() -> None:
    draws: list[Draw] = [draw for step in StepSampler(plan(epochs=60)) for draw in step]
    assert {draw.top for draw in draws} == {draw.left for draw in draws} == {0, 1, 2, 3, 4}
    assert 0.45 < np.mean([draw.mirrored for draw in draws]) < 0.55
    contrast = np.array([draw.contrast for draw in draws])
    brightness = np.array([draw.brightness for draw in draws])
    assert 0.8 <= contrast.min() < 0.81
    assert 1.19 < contrast.max() <= 1.2
    assert -0.2 <= brightness.min() < -0.19
    assert 0.19 < brightness.max() <= 0.2


def test_unusable_batches_are_refused() -> None:
    with pytest.raises(FacegmError, match=r"50 faces do not fill one batch of 64; lower train\.batch_size"):
        plan(batch_size=64)
    with pytest.raises(FacegmError, match="does not divide among 5 processes"):
        StepSampler(plan(), world_size=5)
