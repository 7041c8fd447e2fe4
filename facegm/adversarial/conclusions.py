"""What attacks with given settings say, in sentences. They are never a proof of robustness, and say so."""

from collections.abc import Sequence
from itertools import pairwise

from facegm.adversarial.attack_results import AttackResult
from facegm.adversarial.verdict import MOST_SUCCESSES, NEGLIGIBLE, USUAL_RATE


def conclusions(results: Sequence[AttackResult]) -> list[str]:
    """The verdict on a network, and on each detector of it.

    Args:
        results: of one attack at least, all of the same images and detectors.
    """
    return [
        *_on_the_network(results),
        *_that_contradict_themselves(results),
        *(sentence for detector in results[0].scores for sentence in _on_a_detector(detector, results)),
    ]


def _on_the_network(results: Sequence[AttackResult]) -> list[str]:
    strongest = max(results, key=lambda one: float(one.is_fooled.mean()))
    sentences = [f"{strongest.name} fools the network on {_percent(strongest.is_fooled.mean())} of the images."]
    for one in results:
        before, after = one.is_fooled.mean(), one.is_fooled_quantised.mean()
        if after < before - NEGLIGIBLE:
            sentences.append(
                f"Of {one.name}, {_percent(before)} succeed and {_percent(after)} once they are rounded to 8 bits: it "
                "ends just beyond the border between classes. An attack with a confidence, as cw-hc, goes further."
            )
    return sentences


def _that_contradict_themselves(results: Sequence[AttackResult]) -> list[str]:
    """Attacks by the gradient's sign, with one bound and targets' rule, of which one succeeds less with more steps."""
    by_steps = sorted((one for one in results if one.recipe.loop == "sign"), key=lambda one: one.recipe.iterations)
    return [
        f"{longer.name} succeeds less often than {shorter.name}, although it takes more steps: gradients mislead, or "
        "the steps are too small, and a stronger attack exists."
        for shorter, longer in pairwise(by_steps)
        if (shorter.recipe.epsilon, shorter.recipe.targets, shorter.recipe.defeats_detector)
        == (longer.recipe.epsilon, longer.recipe.targets, longer.recipe.defeats_detector)
        and longer.is_fooled.mean() < shorter.is_fooled.mean() - NEGLIGIBLE
    ]


def _on_a_detector(detector: str, results: Sequence[AttackResult]) -> list[str]:
    found = {one.name: one.detection(detector) for one in results}
    strongest = max(found, key=lambda name: found[name].undetected[USUAL_RATE])
    share, area = found[strongest].undetected[USUAL_RATE], found[strongest].area
    fact = (
        f"{detector}: with {100 * USUAL_RATE:g} % false alarms on clean images, {_percent(share)} of the images fool "
        f"the network undetected, by {strongest} (AUC {area:.4f})."
    )
    if share >= MOST_SUCCESSES:
        return [f"{fact} No robustness claimed."]
    if not any(one.recipe.defeats_detector for one in results):
        reason = (
            "none of these attacks knows the detector; add one that does, as --attack orthogonal, before anything is "
            "concluded"
        )
    else:
        reason = (
            "attacks with other settings may do better, and neither twice the iterations, a larger bound, a substitute "
            "nor a broken detector has been tried"
        )
    return [f"{fact} No robustness claimed: {reason}."]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
