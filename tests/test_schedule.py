"""What changes over the course of a run, against values worked out by hand."""

import math

import pytest

from facegm.schedule import Progress, cosine_decay, linear_warmup, power_decay, step_decay
from facegm.training.config import OptimizerConfig


def test_share_of_the_run() -> None:
    assert [Progress(step, 8).share for step in (0, 2, 8)] == [0.0, 0.25, 1.0]


def test_warm_up_rises_linearly_and_stays() -> None:
    risen = [linear_warmup(share, start=0.1, fraction=0.5) for share in (0.0, 0.25, 0.5, 1.0)]
    assert risen == pytest.approx([0.1, 0.55, 1, 1])
    assert linear_warmup(0.0, start=0.1, fraction=0.0) == 1


def test_steps_fall_at_the_milestones() -> None:
    fallen = [step_decay(share, [0.5, 0.7, 0.8]) for share in (0, 0.49, 0.5, 0.7, 0.99)]
    assert fallen == pytest.approx([1, 1, 0.1, 0.01, 0.001])


def test_the_cosine_falls_to_0() -> None:
    fallen = [cosine_decay(share) for share in (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)]
    assert fallen == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.75, 0.5, 0.25, 0])


def test_power_decay_falls_by_steps_to_its_minimum() -> None:
    fallen = [power_decay(step, start=100, gamma=0.5, power=2, minimum=3) for step in (0, 2, 6, 20)]
    assert fallen == pytest.approx([100, 25, 6.25, 3])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("step", [0.002, 0.101, 0.2, 0.2, 0.02, 0.002]), ("cosine", [0.002, 0.0971559, 0.1707107, 0.1, 0.1, 0.0190983])],
)
def test_the_learning_rate_is_warmed_up_and_falls(schedule: str, expected: list[float]) -> None:
    """At 0, 1/8, 1/4, 0.49.., 1/2 and 0.8 of the run; a warm-up over a quarter, milestones at 1/2 and 0.8."""
    config = OptimizerConfig(
        learning_rate=0.2,
        schedule="cosine" if schedule == "cosine" else "step",
        warmup_fraction=0.25,
        milestones=[0.5, 0.8],
    )
    rates = [config.rate(Progress(step, 10**6)) for step in (0, 125_000, 250_000, 499_999, 500_000, 800_000)]
    assert rates == pytest.approx(expected, rel=1e-5)
