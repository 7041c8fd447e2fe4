"""The order of the samples and their augmentation: a function of seed and step alone, shared among ranks."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
import torch

from facegm.data.draws import DrawPlan, EvaluationSampler, StepSampler, samples_of_step
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError

LABELS = np.repeat(np.arange(4), (30, 11, 8, 1))  # 50 samples, very unequally many of each class


class TwoColumns(NamedTuple):
    of_the_sample: np.ndarray
    by_chance: np.ndarray


class Numbered(Samples):
    """Samples whose draws tell which they are of; their images do not matter here."""

    keys = tuple(map(str, range(50)))
    labels = LABELS
    image_bytes, can_be_kept, is_in_memory = 3, False, False

    def __init__(self, *, is_augmented: bool = True) -> None:
        self._is_augmented = is_augmented

    def draw(self, numbers: np.ndarray, rng: np.random.Generator | None) -> TwoColumns | tuple[()]:
        if not self._is_augmented:
            return ()
        return TwoColumns(10 * numbers, np.zeros(len(numbers)) if rng is None else rng.random(len(numbers)))

    def keep_decoded(self, device: torch.device) -> None:
        raise NotImplementedError

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        raise NotImplementedError


def plan(**changes: int) -> DrawPlan:
    return DrawPlan(labels=LABELS, **({"batch_size": 12, "epochs": 3, "seed": 7} | changes))  # type: ignore[arg-type]


def drawn(the_plan: DrawPlan, samples: Samples | None = None, **place: int) -> list[DrawnSamples]:
    return list(StepSampler(the_plan, samples or Numbered(), **place))


def joined(steps: Iterable[DrawnSamples]) -> tuple[np.ndarray, ...]:
    """Numbers and both columns of the draws of all steps."""
    return tuple(map(np.concatenate, zip(*((step.numbers, *step.draws) for step in steps), strict=True)))


def assert_same(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_draws_each_sample_at_most_once_and_epochs_differ() -> None:
    steps = drawn(plan())
    assert len(steps) == len(StepSampler(plan(), Numbered())) == plan().steps == 12
    epochs = [joined(steps[start : start + 4])[0].tolist() for start in (0, 4, 8)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_ranks_share_the_global_batch_in_its_order() -> None:
    """Protects also the pairing: each sample keeps the draw that was made for it."""
    alone = drawn(plan())
    parts = [drawn(plan(), rank=rank, world_size=3) for rank in range(3)]
    for step in range(12):
        of_all = joined(part[step] for part in parts)
        assert_same(of_all, joined([alone[step]]))
        np.testing.assert_array_equal(of_all[1], 10 * of_all[0])
        np.testing.assert_array_equal(samples_of_step(plan(), step), of_all[0])


def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch() -> None:
    assert_same(joined(drawn(plan(), first_step=5)), joined(drawn(plan())[5:]))


def test_seed_and_step_change_order_and_augmentation() -> None:
    steps, others = drawn(plan()), drawn(plan(seed=8))
    for a, b in ((steps[0], others[0]), (steps[0], steps[1]), (steps[0], steps[4])):
        assert all((one != other).any() for one, other in zip(joined([a]), joined([b]), strict=True))


def test_samples_without_augmentation_have_no_draws() -> None:
    for rank in range(2):
        assert {step.draws for step in drawn(plan(), Numbered(is_augmented=False), rank=rank, world_size=2)} == {()}


def test_balanced_draws_show_every_class_equally_often_and_of_each_all_samples() -> None:
    balanced = plan(balanced=True, batch_size=10, epochs=40)
    numbers = joined(drawn(balanced))[0].reshape(40, 50)
    labels = balanced.labels
    counts = np.apply_along_axis(np.bincount, 1, labels[numbers])
    assert np.abs(counts - 12.5).max() < 1
    for epoch in numbers:  # within an epoch a sample comes again only after all others of its class
        for label, number in enumerate((30, 11, 8, 1)):
            found = np.bincount(epoch[labels[epoch] == label], minlength=50)[labels == label]
            assert len(found) == number
            assert found.max() - found.min() <= 1
    assert set(numbers.ravel()) == set(range(50))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_an_evaluation_sees_each_sample_once_without_chance(processes: int) -> None:
    """Protects accuracies from samples that are left out or counted twice where they do not divide."""
    parts = []
    for rank in range(processes):
        sampler = EvaluationSampler(Numbered(), 8, rank=rank, world_size=processes)
        mine = list(sampler)
        assert len(mine) == len(sampler)
        assert all(len(part.numbers) <= 8 for part in mine)
        parts += mine
    numbers, of_the_sample, by_chance = joined(parts)
    assert sorted(numbers.tolist()) == list(range(50))
    np.testing.assert_array_equal(of_the_sample, 10 * numbers)
    assert not by_chance.any()


def test_unusable_batches_are_refused() -> None:
    with pytest.raises(FacegmError, match=r"50 images do not fill one batch of 64; lower train\.batch_size"):
        plan(batch_size=64)
    with pytest.raises(FacegmError, match="does not divide among 5 processes"):
        StepSampler(plan(), Numbered(), world_size=5)
