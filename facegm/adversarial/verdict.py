"""What a detector is worth: how often an attacker who knows it comes by undetected, and whether that can be believed.

The questions are those of Carlini et al. 2019 ("On Evaluating Adversarial Robustness") and Zimmermann et al. 2022
("Increasing Confidence in Adversarial Robustness Evaluations").
"""

from collections.abc import Mapping
from dataclasses import dataclass

from facegm.adversarial.detection import FALSE_ALARM_RATES, Detection

USUAL_RATE = 0.05
"""The false-alarm rate at which attacks are compared."""
NEGLIGIBLE = 0.02
"""What a share may differ by where it should not."""
COMPLETE = 0.995
"""Share of successes that is as good as all."""
FALLEN = 0.8
"""Share of successes that an attack has to reach where nothing is in its way."""
MOST_SUCCESSES = 0.10
"""Share of undetected successes from which on nobody would call a detector robust."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A question about an evaluation, answered."""

    is_in_order: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a detector is worth against an attacker who knows it; shares from 0 to 1."""

    detector: str
    """By name, such as GM+KD."""
    attack: str
    """By name and settings."""
    white_box: Detection
    """Under the attack on network and detector."""
    doubled: Detection
    """Under the same with twice the iterations."""
    over_budget: Mapping[float, float]
    """By the most that a pixel may change, the share of undetected successes at 5 % false alarms."""
    noise: Mapping[float, float]
    """By false-alarm rate on clean images, that on noise of the attack's distortion."""
    zero_gradients: float
    """Share of clean images at which the attack's loss has no gradient."""
    transferred: Detection
    """Under an attack crafted on a substitute."""
    gradient_free: Detection
    """Under an attack that asks for outputs alone."""
    undefended: float
    """Share of images on which the same attack reaches its goal on a twin without defence."""
    broken: Detection
    """Of a detector that is broken on purpose, under the same attack on it."""

    def findings(self) -> tuple[Finding, ...]:
        """Whether the attack was as strong as it can be; without that, a high AUC says nothing."""
        usual = self.white_box.undetected[USUAL_RATE]
        change = max(abs(self.doubled.undetected[rate] - self.white_box.undetected[rate]) for rate in FALSE_ALARM_RATES)
        budgets = sorted(self.over_budget)
        shares = [self.over_budget[budget] for budget in budgets]
        rises = all(share >= max(shares[: number + 1]) - NEGLIGIBLE for number, share in enumerate(shares))
        listed = ", ".join(f"{_percent(share)} at {budget:g}" for budget, share in zip(budgets, shares, strict=True))
        transferred, gradient_free = (one.undetected[USUAL_RATE] for one in (self.transferred, self.gradient_free))
        slipped = self.broken.undetected[USUAL_RATE]
        return (
            _finding(
                change <= NEGLIGIBLE,
                f"Twice the iterations change the share of undetected successes by {100 * change:.1f} points",
                "nothing more is to be had of them",
                "the attack was stopped too early",
            ),
            _finding(
                rises and shares[-1] >= COMPLETE,
                f"Undetected successes by what a pixel may change: {listed}",
                "they rise to all, as they must",
                "they do not rise to all, as they must, so the attack is weaker than it could be",
            ),
            _finding(
                self.zero_gradients <= NEGLIGIBLE,
                f"At {_percent(self.zero_gradients)} of the clean images the attack's loss has no gradient",
                "it leads somewhere",
                "there the attack cannot begin",
            ),
            _finding(
                max(transferred, gradient_free) <= usual + NEGLIGIBLE,
                f"Undetected successes are {_percent(transferred)} from a substitute, {_percent(gradient_free)} "
                f"without gradients and {_percent(usual)} with all knowledge",
                "who knows more succeeds more, as it must be",
                "who knows more should succeed more, so gradients mislead",
            ),
            _finding(
                self.undefended >= FALLEN,
                f"On an undefended twin the same attack reaches its goal on {_percent(self.undefended)} of the images",
                "it falls, as it must",
                "where it should fall, so the attack is too weak or too tightly bound",
            ),
            _finding(
                slipped >= FALLEN,
                f"A detector that is broken on purpose lets {_percent(slipped)} fool the network undetected",
                "it falls, as it must",
                "where it should fall, so the attack is too weak or too tightly bound",
            ),
        )

    @property
    def strongest(self) -> tuple[float, float]:
        """The largest share of undetected successes of any attack, and at which false-alarm rate."""
        attacks = (self.white_box, self.doubled, self.transferred, self.gradient_free)
        return max((one.undetected[rate], rate) for one in attacks for rate in FALSE_ALARM_RATES)

    @property
    def claims_robustness(self) -> bool:
        """Whether all attacks mostly fail, and nothing says that they could do better."""
        return self.strongest[0] < MOST_SUCCESSES and all(finding.is_in_order for finding in self.findings())

    def sentences(self) -> list[str]:
        """The verdict in words."""
        d = self.white_box
        rates = ", ".join(f"{100 * rate:g}" for rate in FALSE_ALARM_RATES)
        of_successes = "" if d.area_of_successes is None else f", {_percent(d.area_of_successes)} over those"
        return [
            f"{self.detector} under {self.attack}, which knows network and detector: {d.images} images that are "
            "classified right, and what becomes of them.",
            f"AUC {_percent(d.area)} over all; {_percent(d.fooled)} fool the network{of_successes}.",
            f"With {rates} % false alarms on clean images, {_list(d.undetected)} fool the network undetected.",
            f"Merely noisy images of the same distortion then raise the alarm in {_list(self.noise)} of cases.",
            *(finding.sentence for finding in self.findings()),
            self._conclusion(),
        ]

    def _conclusion(self) -> str:
        share, rate = self.strongest
        wrong = sum(not finding.is_in_order for finding in self.findings())
        if share >= MOST_SUCCESSES:
            return (
                f"No robustness claimed: with {100 * rate:g} % false alarms {_percent(share)} of the images fool the "
                "network undetected."
            )
        if wrong:
            return f"No robustness claimed: {wrong} of the checks above say that the attack could do better."
        return f"At most {_percent(share)} of the images fool the network undetected; other attacks may do better."


def _finding(is_in_order: bool, fact: str, good: str, bad: str) -> Finding:
    return Finding(is_in_order=is_in_order, sentence=f"{fact}: {good if is_in_order else bad}.")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _list(shares: Mapping[float, float]) -> str:
    return ", ".join(_percent(shares[rate]) for rate in FALSE_ALARM_RATES)
