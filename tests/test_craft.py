"""Recipes carried out: each by its loop towards its targets, alike in any batch and for any pixel range."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from small_subjects import CLASSES, KINDS, Kind, small_subject, some_images
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.craft import Crafted, craft
from facegm.adversarial.density_objective import DensityMargin, DensityShortfall
from facegm.adversarial.detectors.base import ClassDensity
from facegm.adversarial.objectives import CrossEntropy, Margin, random_other_classes
from facegm.adversarial.orthogonal_attack import JointObjective
from facegm.adversarial.recipe import ATTACKS, AttackRecipe
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import UNIT_RANGE, PixelRange, Subject
from facegm.errors import FacegmError, UsageError

RANGES = (UNIT_RANGE, PixelRange(-0.5, 0.5), PixelRange(0.0, 255.0))
COUNT = 8
NUMBERS = torch.tensor([4, 1, 0, 50, 7, 2, 3, 1000])
LABELS = torch.arange(COUNT) % CLASSES
QUICK = {
    name: replace(
        recipe,
        iterations=min(recipe.iterations, 15),
        restarts=min(recipe.restarts, 2),
        search_steps=2,
        learning_rate=10 * recipe.learning_rate,
    )
    for name, recipe in ATTACKS.items()
}
"""The attacks of the command line, but short."""


def likelihood(subject: Subject) -> ClassDensity:
    """Log density of a feature in a class: a logit, where the network is of the GM loss."""
    return lambda features, classes: subject.logits(features).gather(1, classes[:, None])[:, 0]


THRESHOLDS = torch.full((CLASSES,), 3.0, dtype=torch.float64)


def crafted(
    recipe: AttackRecipe,
    kind: Kind = "gm",
    pixel_range: PixelRange = UNIT_RANGE,
    rows: slice | list[int] = slice(COUNT),
) -> Crafted:
    subject = small_subject(kind, pixel_range)
    return craft(
        recipe,
        subject,
        some_images(COUNT, pixel_range)[rows],
        LABELS[rows],
        numbers=NUMBERS[rows],
        density=likelihood(subject),
        thresholds=THRESHOLDS,
    )


def logits_of(images: Tensor, kind: Kind = "gm", pixel_range: PixelRange = UNIT_RANGE) -> Tensor:
    with torch.no_grad():
        logits: Tensor = small_subject(kind, pixel_range).module(images)
    return logits


Numbers = dict[str, object]
SIGN: Numbers = {"epsilon": 25.5, "step": 2.55, "iterations": 20, "restarts": 0, "stops": False}
CARLINI_WAGNER: Numbers = {"learning_rate": 0.001, "search_steps": 5, "iterations": 1000, "initial_constant": 1.0}
EXPECTED: dict[str, tuple[str, Numbers, list[type]]] = {
    "fgsm": ("sign_attack", {**SIGN, "step": 25.5, "iterations": 1}, [CrossEntropy]),
    "bim": ("sign_attack", SIGN, [CrossEntropy]),
    "ilcm": ("sign_attack", SIGN, [CrossEntropy]),
    "pgd": ("sign_attack", {**SIGN, "iterations": 40, "restarts": 5, "stops": True}, [CrossEntropy]),
    "cw": ("carlini_wagner", CARLINI_WAGNER, [Margin]),
    "cw-hc": ("carlini_wagner", CARLINI_WAGNER, [Margin]),
    "ddn": ("ddn", {"iterations": 300}, [CrossEntropy]),
    "square": ("random_search", {"epsilon": 25.5, "queries": 5000}, [Margin]),
    "cw-wb": (
        "white_box_carlini_wagner",
        {**CARLINI_WAGNER, "learning_rate": 0.01, "start_iterations": 1000},
        [DensityMargin],
    ),
    "joint": ("sign_attack", {**SIGN, "iterations": 200, "restarts": 1}, [JointObjective]),
    "orthogonal": (
        "orthogonal_attack",
        {"epsilon": 25.5, "step": 2.55, "iterations": 200},
        [Margin, DensityShortfall],
    ),
}
"""Of each attack of the command line the loop, its numbers for pixels of 0 to 255, and its objectives."""


@pytest.mark.parametrize("name", ATTACKS)
def test_the_loop_takes_the_numbers_of_the_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Wan et al., section 4.4, and what is chosen where they say nothing."""
    loop, numbers, objectives = EXPECTED[name]
    taken: list[tuple[tuple[object, ...], Numbers]] = []

    def keep(*arguments: object, **options: object) -> Attacked:
        taken.append((arguments, options))
        return Attacked(images=some_images(COUNT, RANGES[2]), is_success=LABELS >= 0, passes=LABELS)

    monkeypatch.setattr(f"facegm.adversarial.craft.{loop}", keep)
    found = crafted(ATTACKS[name], pixel_range=RANGES[2])
    ((arguments, options),) = taken
    generators = options.pop("generators", None)
    assert options == pytest.approx(numbers)
    assert (generators is not None) == (loop in ("sign_attack", "random_search"))
    *goals, images, pixel_range = arguments
    assert [type(goal) for goal in goals] == objectives
    assert isinstance(images, Tensor)
    assert torch.equal(images, some_images(COUNT, RANGES[2]))
    assert pixel_range == RANGES[2]
    for goal in [goals[0].network, goals[0].detector] if isinstance(goals[0], JointObjective) else goals:
        assert isinstance(goal, CrossEntropy | Margin | DensityMargin | DensityShortfall)
        wanted = LABELS if found.targets is None else found.targets
        assert torch.equal(goal.targets if isinstance(goal, DensityMargin) else goal.classes, wanted)
        assert isinstance(goal, DensityMargin) or goal.is_targeted == (name != "square")
        if isinstance(goal, Margin | DensityMargin):
            assert goal.confidence == (10 if name == "cw-hc" else 0)


def test_confidence_and_floor_reach_the_attack_on_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    goals: list[DensityMargin] = []

    def keep(goal: DensityMargin, images: Tensor, *_: object, **__: object) -> Attacked:
        goals.append(goal)
        return Attacked(images=images, is_success=LABELS >= 0, passes=LABELS)

    monkeypatch.setattr("facegm.adversarial.craft.white_box_carlini_wagner", keep)
    crafted(replace(ATTACKS["cw-wb"], confidence=3.0, density_floor=True))
    crafted(ATTACKS["cw-wb"])
    assert [(goal.confidence, goal.floor) for goal in goals] == [(3.0, True), (0.0, False)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name, recipe in QUICK.items() if not recipe.defeats_detector])
def test_success_is_that_the_logits_are_as_the_attacker_wants_them(name: str, kind: Kind) -> None:
    recipe = QUICK[name]
    found = crafted(recipe, kind)
    logits = logits_of(found.images, kind)
    for row in range(COUNT):
        own = int(LABELS[row] if found.targets is None else found.targets[row])
        lead = float(logits[row, own]) - max(float(logits[row, k]) for k in range(CLASSES) if k != own)
        is_reached = lead < 0 if found.targets is None else lead > recipe.confidence
        assert bool(found.is_success[row]) == is_reached
    assert found.is_success.any() or name == "cw-hc"
    assert (found.passes >= 1).all()


@pytest.mark.parametrize("name", [name for name, recipe in QUICK.items() if recipe.defeats_detector])
def test_an_attack_on_a_detector_succeeds_where_the_target_is_predicted_and_dense_enough(name: str) -> None:
    found = crafted(replace(QUICK[name], epsilon=0.25, iterations=12))
    assert found.targets is not None
    logits = logits_of(found.images)
    for row, target in enumerate(found.targets.tolist()):
        is_predicted = max(logits[row].tolist()) == float(logits[row, target])
        is_dense = float(logits[row, target]) >= -3.0  # of the GM loss, logits are log densities
        assert bool(found.is_success[row]) == (is_predicted and is_dense)
    assert 0 < found.is_success.sum() < COUNT


@pytest.mark.parametrize("name", QUICK)
def test_an_image_is_attacked_alike_in_any_batch(name: str) -> None:
    together, parts = crafted(QUICK[name]), [crafted(QUICK[name], rows=rows) for rows in ([2], [7, 0, 4])]
    for part, rows in zip(parts, ([2], [7, 0, 4]), strict=True):
        torch.testing.assert_close(part.images, together.images[rows], rtol=0, atol=1e-9)
        assert torch.equal(part.passes, together.passes[rows])
        if together.targets is not None:
            assert part.targets is not None
            assert torch.equal(part.targets, together.targets[rows])


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("pixel_range", RANGES[1:])
def test_an_attack_is_the_same_in_any_pixel_range(name: str, pixel_range: PixelRange) -> None:
    """Bounds, steps and distances grow with the range, and nothing leaves it."""
    unit, found = crafted(QUICK[name]), crafted(QUICK[name], pixel_range=pixel_range)
    back = (found.images - pixel_range.low) / pixel_range.width
    torch.testing.assert_close(back, unit.images, rtol=0, atol=1e-6)
    assert torch.equal(found.is_success, unit.is_success)
    assert pixel_range.low <= found.images.amin()
    assert found.images.amax() <= pixel_range.high
    if QUICK[name].is_bounded:
        change = (found.images - some_images(COUNT, pixel_range)).abs().amax()
        assert change <= 0.1 * pixel_range.width * (1 + 1e-9)


def test_targets_follow_the_rule_and_random_ones_the_seed() -> None:
    logits = logits_of(some_images(COUNT))
    least = crafted(QUICK["ilcm"]).targets
    assert least is not None
    assert least.tolist() == [row.index(min(row)) for row in logits.tolist()]
    assert crafted(QUICK["square"]).targets is None
    by_seed = [crafted(replace(QUICK["fgsm"], seed=seed)).targets for seed in (0, 0, 1)]
    assert by_seed[0] is not None
    assert by_seed[1] is not None
    assert by_seed[2] is not None
    assert (by_seed[0] != LABELS).all()
    assert torch.equal(by_seed[0], random_other_classes(LABELS, CLASSES, generators_of(NUMBERS, 0)))
    assert torch.equal(by_seed[0], by_seed[1])
    assert not torch.equal(by_seed[0], by_seed[2])


def test_an_untargeted_attack_and_a_gradient_free_one_work_with_a_detector_too() -> None:
    for loop in ("sign", "random_search", "ddn", "orthogonal"):
        found = crafted(
            AttackRecipe(loop=loop, targets="none", defeats_detector=True, epsilon=0.4, step=0.03, iterations=60)
        )
        logits = logits_of(found.images)
        is_fooled = logits.argmax(dim=1) != LABELS
        is_dense = logits.amax(dim=1) >= -3.0
        assert torch.equal(found.is_success, is_fooled & is_dense)
        assert found.is_success.any()


def test_a_density_and_its_thresholds_are_asked_for() -> None:
    with pytest.raises(UsageError, match="give its density and thresholds"):
        craft(ATTACKS["joint"], small_subject(), some_images(1), LABELS[:1], numbers=NUMBERS[:1])


@pytest.mark.parametrize("pixel", [-0.1, 1.1, math.nan])
def test_images_of_another_range_are_refused(pixel: float) -> None:
    images = some_images(2)
    images[1, 0, 0, 0] = pixel
    with pytest.raises(FacegmError, match=r"the pixel range is 0 to 1; scale them, or declare the range"):
        craft(ATTACKS["fgsm"], small_subject(), images, LABELS[:2], numbers=NUMBERS[:2])


@pytest.mark.parametrize(("change", "complaint"), [(0.11, "more than the bound of 0.1"), (2.0, "pixel range")])
def test_a_result_that_has_left_ball_or_range_is_no_result(
    change: float, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(_: object, images: Tensor, *arguments: object, **options: object) -> Attacked:
        moved = images + change * torch.where(images < 0.5, 1, -1)
        return Attacked(images=moved, is_success=LABELS >= 0, passes=LABELS)

    monkeypatch.setattr("facegm.adversarial.craft.sign_attack", leaves)
    with pytest.raises(FacegmError, match=complaint):
        crafted(ATTACKS["fgsm"])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epsilon": 0.0}, "epsilon: 0.0, must be above 0"),
        ({"step": math.inf}, "step: inf, must be above 0"),
        ({"iterations": 0}, "iterations: 0, must be at least 1"),
        ({"restarts": -1}, "restarts: -1, must be at least 0"),
        ({"confidence": -1.0}, "confidence: -1.0, must be at least 0"),
        ({"seed": -1}, "seed: -1, must be from 0"),
        ({"loop": "orthogonal"}, "defeats_detector: False, must be true with orthogonal"),
        (
            {"loop": "carlini_wagner", "defeats_detector": True, "targets": "none"},
            "targets: none, must be random or least_likely",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(ATTACKS["bim"], **changes)  # type: ignore[arg-type]
