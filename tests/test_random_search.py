"""The Square attack against a plain one on one image at a time, and what it promises beside."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_subjects import KINDS, Kind, planted_subject, small_subject, some_images
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.objectives import CrossEntropy, Judgement, Margin
from facegm.adversarial.random_search import random_search, square_side
from facegm.adversarial.result import check_attacked
from facegm.adversarial.subject import UNIT_RANGE, PixelRange

RANGES = (UNIT_RANGE, PixelRange(-0.5, 0.5), PixelRange(0.0, 255.0))
COUNT = 4


def published_share(query: int, queries: int) -> float:
    """P of the published code, of which the first query after the stripes is number 0."""
    number = int((query - 1) / queries * 10000)
    bounds = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 10000]
    for halvings, bound in enumerate(bounds):
        if number <= bound:
            return 0.05 / float(2**halvings)
    raise AssertionError


@pytest.mark.parametrize("queries", [10_000, 5000, 300, 7])
def test_squares_shrink_as_in_the_published_code(queries: int) -> None:
    for query in range(1, queries):
        side = round(math.sqrt(published_share(query, queries) * 28 * 32))
        assert square_side(query, queries, 28, 32) == min(max(side, 1), 27)
    assert square_side(1, queries, 28, 32) == 7
    assert square_side(1, queries, 1, 9) == 1


def reference(
    goal: Margin | CrossEntropy, row: int, image: Tensor, pixel_range: PixelRange, *, epsilon: float, queries: int
) -> tuple[Tensor, bool, int]:
    """The attack on one image, step by step: the image, whether it reaches the goal, and the queries taken."""
    (generator,) = generators_of(torch.tensor([row]), 3)
    channels, height, width = image.shape

    def bound(pixel: Tensor, draw: float) -> Tensor:
        change = epsilon if draw < 0.5 else -epsilon
        return (pixel + change).clamp(pixel_range.low, pixel_range.high)

    def judged(attacked: Tensor) -> tuple[float, bool]:
        loss, is_reached = goal(attacked[None], torch.tensor([row]))
        return float(loss.detach()), bool(is_reached)

    stripes = torch.rand((channels, 1, width), generator=generator).tolist()
    best = image.clone()
    for channel in range(channels):
        for column in range(width):
            best[channel, :, column] = bound(image[channel, :, column], stripes[channel][0][column])
    loss, is_reached = judged(best)
    for query in range(1, queries):
        if is_reached:
            return best, True, query
        side = min(max(round(math.sqrt(published_share(query, queries) * height * width)), 1), min(height, width) - 1)
        down, right, *signs = torch.rand(2 + channels, generator=generator).tolist()
        top, left = math.floor(down * (height - side + 1)), math.floor(right * (width - side + 1))
        window = (slice(top, top + side), slice(left, left + side))
        tried = best.clone()
        for channel in range(channels):
            tried[channel][window] = bound(image[channel][window], signs[channel])
        if torch.equal(tried, best):
            for channel in range(channels):
                tried[channel][window] = bound(image[channel][window], 1 - signs[channel])
        new_loss, is_reached = judged(tried)
        if new_loss < loss or is_reached:
            best, loss = tried, new_loss
    return best, is_reached, queries


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pixel_range", RANGES)
@pytest.mark.parametrize("is_targeted", [True, False])
def test_each_image_is_attacked_as_by_the_reference(kind: Kind, pixel_range: PixelRange, is_targeted: bool) -> None:
    subject, images = small_subject(kind, pixel_range), some_images(COUNT, pixel_range)
    epsilon = 0.1 * pixel_range.width
    goal = Margin(subject=subject, classes=torch.arange(COUNT), is_targeted=is_targeted)
    found = random_search(
        goal, images, pixel_range, epsilon=epsilon, queries=40, generators=generators_of(torch.arange(COUNT), 3)
    )
    for row in range(COUNT):
        image, is_success, passes = reference(goal, row, images[row], pixel_range, epsilon=epsilon, queries=40)
        assert torch.equal(found.images[row], image)
        assert (bool(found.is_success[row]), int(found.passes[row])) == (is_success, passes)
    assert found.is_success.sum() > 0
    check_attacked(images, found.images, pixel_range, epsilon=epsilon)


class Recorded:
    """A goal that no gradient leads to: a loss of whole numbers; keeps what it was asked."""

    def __init__(self, reached_by: float) -> None:
        self.reached_by = reached_by
        self.queries: list[tuple[Tensor, list[int], Tensor]] = []

    def __call__(self, images: Tensor, rows: Tensor) -> Judgement:
        assert not torch.is_grad_enabled()
        loss = (images[:, 0] < 0.5).flatten(1).sum(dim=1).to(images)
        self.queries.append((images.clone(), rows.tolist(), loss.clone()))
        return Judgement(loss, loss <= self.reached_by * (rows + 1))


def test_a_goal_without_gradient_is_reached_and_costs_no_more_then() -> None:
    goal, images = Recorded(1.0), torch.full((6, 1, 5, 6), 0.5)
    found = random_search(
        goal, images, UNIT_RANGE, epsilon=0.1, queries=400, generators=generators_of(torch.arange(6), 0)
    )
    assert found.is_success.all()
    assert len({int(passes) for passes in found.passes}) > 2
    for row in range(6):
        asked = [(image[rows.index(row)], loss[rows.index(row)]) for image, rows, loss in goal.queries if row in rows]
        assert len(asked) == found.passes[row]
        assert torch.equal(asked[-1][0], found.images[row])
        assert all(loss > row + 1 for _, loss in asked[:-1])
        best = asked[0]
        for tried in asked[1:]:
            assert not torch.equal(tried[0], best[0])  # no query is wasted on what is known
            best = tried if tried[1] < best[1] else best


def test_an_image_that_reaches_the_goal_is_kept_though_its_loss_be_larger() -> None:
    """As the cross-entropy of an own class may be when another one overtakes it."""
    asked: list[Tensor] = []

    def goal(images: Tensor, rows: Tensor) -> Judgement:
        asked.append(images)
        return Judgement(torch.full((1,), float(len(asked))), torch.full((1,), len(asked) == 3))

    found = random_search(
        goal,
        torch.full((1, 1, 5, 6), 0.5),
        UNIT_RANGE,
        epsilon=0.1,
        queries=9,
        generators=generators_of(torch.tensor([0]), 0),
    )
    assert found.is_success.item()
    assert len(asked) == found.passes.item() == 3
    assert torch.equal(found.images, asked[2])


def test_the_first_query_is_stripes_one_pixel_wide_of_either_sign_in_each_channel() -> None:
    images = torch.full((50, 3, 4, 8), 0.5)
    found = random_search(
        Recorded(-1.0), images, UNIT_RANGE, epsilon=0.25, queries=1, generators=generators_of(torch.arange(50), 0)
    )
    assert (found.passes == 1).all()
    assert not found.is_success.any()
    stripes = found.images[:, :, 0]
    assert torch.equal(found.images, stripes[:, :, None].expand(-1, -1, 4, -1))
    assert set(stripes.flatten().tolist()) == {0.25, 0.75}
    of_each_place = stripes.mean(dim=0)
    assert ((of_each_place - 0.5).abs() < 0.15).all()  # half of either sign: four deviations
    assert len(stripes.flatten(1).unique(dim=0)) == 50


def test_squares_lie_everywhere() -> None:
    goal = Recorded(-1.0)
    random_search(
        goal,
        torch.full((1, 1, 5, 7), 0.5),
        UNIT_RANGE,
        epsilon=0.25,
        queries=600,
        generators=generators_of(torch.tensor([0]), 0),
    )
    tried = torch.cat([images for images, _, _ in goal.queries])
    assert (tried.amin(dim=0) == 0.25).all()
    best = tried[goal.queries[-1][2].argmin()]
    assert ((tried[1:] != best).sum(dim=0) > 0).all()


def test_an_image_is_attacked_alike_in_any_batch() -> None:
    subject, images, numbers = small_subject(), some_images(6), torch.tensor([5, 9, 0, 1, 30, 2])

    def attacked(rows: list[int], seed: int) -> Tensor:
        goal = Margin(subject=subject, classes=torch.zeros(len(rows), dtype=torch.int64), is_targeted=True)
        generators = generators_of(numbers[rows], seed)
        return random_search(goal, images[rows], UNIT_RANGE, epsilon=0.1, queries=30, generators=generators).images

    together = attacked([0, 1, 2, 3, 4, 5], 0)
    assert torch.equal(together, torch.cat([attacked([0, 1], 0), attacked([2, 3, 4, 5], 0)]))
    assert torch.equal(together, attacked([5, 4, 3, 2, 1, 0], 0).flip(0))
    assert not torch.equal(together, attacked([0, 1, 2, 3, 4, 5], 1))


@given(st.floats(0.001, 1.5), st.integers(1, 12), st.sampled_from([*RANGES, PixelRange(3.0, 3.5)]), st.integers(0, 99))
def test_nothing_leaves_ball_or_range(epsilon: float, queries: int, pixel_range: PixelRange, seed: int) -> None:
    images = some_images(3, pixel_range, seed).float()
    subject = small_subject("gm", pixel_range)
    subject.module.float()
    found = random_search(
        Margin(subject=subject, classes=torch.arange(3), is_targeted=True),
        images,
        pixel_range,
        epsilon=epsilon * pixel_range.width,
        queries=queries,
        generators=generators_of(torch.arange(3), seed),
    )
    assert found.images.amin() >= pixel_range.low
    assert found.images.amax() <= pixel_range.high
    check_attacked(images, found.images, pixel_range, epsilon=epsilon * pixel_range.width)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_adversarial_is_found(seed: int) -> None:
    image = some_images(1, seed=seed + 10)
    goal = Margin(subject=planted_subject(image, 0.1, seed), classes=torch.tensor([1]), is_targeted=True)
    found = random_search(
        goal, image, UNIT_RANGE, epsilon=0.1, queries=1000, generators=generators_of(torch.tensor([0]), 0)
    )
    assert found.is_success.item()
    assert 10 < found.passes.item() < 1000
    check_attacked(image, found.images, UNIT_RANGE, epsilon=0.1)
