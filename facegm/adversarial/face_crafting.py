"""The attacks on faces, and their way to the attacked photos: by recipe, batch by batch."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.craft import carry_out
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.face_objectives import EmbeddingDistance
from facegm.adversarial.face_pairs import AttackedPairs
from facegm.adversarial.lossless import of_levels
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import Attacked, check_attacked
from facegm.adversarial.subject import UNIT_RANGE, Images, Subject
from facegm.adversarial.subject_checks import check_gradients, check_mode
from facegm.adversarial.verifier import Verifier

BUDGETS = (1, 2, 4, 8, 16)
"""The most that a pixel changes, on a scale of 0 to 255."""
USUAL_BUDGET = 8
"""FGSM's."""
LOOKED_AT = 50
"""Photos by which a network is examined before it is attacked."""


def _pgd(budget: int) -> AttackRecipe:
    epsilon = budget / 255
    return AttackRecipe(
        loop="sign", targets="none", epsilon=epsilon, step=epsilon / 4, iterations=40, restarts=1, stops=True
    )


FACE_ATTACKS: Mapping[str, AttackRecipe] = {
    "fgsm": replace(_pgd(USUAL_BUDGET), step=USUAL_BUDGET / 255, iterations=1, restarts=0, stops=False),
    **{f"pgd-{budget}": _pgd(budget) for budget in BUDGETS},
    "cw": AttackRecipe(
        loop="carlini_wagner", targets="none", learning_rate=0.002, iterations=100, initial_constant=10.0
    ),
    "ddn": AttackRecipe(loop="ddn", targets="none", iterations=100),
}
"""By name, what photos are attacked by: success within L-infinity balls by PGD, and the nearest success in the L2
distance by C&W and by DDN. Targets are persons, and so none of the recipe's."""


def craft_faces(
    subject: Subject, verifier: Verifier, pairs: AttackedPairs, recipe: AttackRecipe, folder: Path
) -> Attacked:
    """Attack the photos of some pairs, batch by batch into a folder.

    Args:
        subject: on the device that is to compute.
        verifier: the decision that is attacked.
        pairs: photos, and what they are compared with.
        recipe: the attack.
        folder: for the batches.
    """
    images = of_levels(torch.from_numpy(pairs.faces), UNIT_RANGE)

    def attack(some: Images, _: Int64[Tensor, " batch"], numbers: Int64[Tensor, " batch"]) -> Attacked:
        objective = _objective(subject, verifier, pairs, numbers.cpu(), recipe.confidence)
        generators = generators_of(numbers, recipe.seed)
        return carry_out(recipe, some, UNIT_RANGE, loss=objective, margin=objective, generators=generators)

    aim = hashlib.sha256(pairs.references.numpy().tobytes() + verifier.thresholds.cpu().numpy().tobytes()).hexdigest()
    numbers = torch.arange(len(images))
    found = craft_in_batches(
        folder, recipe, subject, images, pairs.folds, numbers, attack=attack, about=f"{pairs.goal} {aim}"
    )
    check_attacked(images, found.images, UNIT_RANGE, epsilon=recipe.epsilon if recipe.is_bounded else None)
    return found


def check_face_subject(subject: Subject, verifier: Verifier, pairs: AttackedPairs) -> None:
    """Make sure that a face network can be attacked in earnest, on the first photos to attack.

    Raises:
        FacegmError: it is in training mode, or no gradient comes back to the photos, or to too many of them one of 0.
    """
    check_mode(subject)
    looked_at = torch.arange(min(len(pairs.faces), LOOKED_AT))
    images = of_levels(torch.from_numpy(pairs.faces[: len(looked_at)]), UNIT_RANGE)
    check_gradients(_objective(subject, verifier, pairs, looked_at, 0.0), images.to(subject.device))


def _objective(
    subject: Subject, verifier: Verifier, pairs: AttackedPairs, numbers: Int64[Tensor, " batch"], margin: float
) -> EmbeddingDistance:
    """Of the photos of some pairs."""
    device = subject.device
    return EmbeddingDistance(
        subject=subject,
        verifier=verifier.to(device),
        goal=pairs.goal,
        references=pairs.references[numbers].to(device),
        folds=pairs.folds[numbers].to(device),
        margin=margin,
    )
