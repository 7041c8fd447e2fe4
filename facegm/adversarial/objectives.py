"""What an attacker wants of each image: a loss to make small, and whether the goal is reached."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.adversarial.chance import Generators
from facegm.adversarial.subject import Images, Subject, outputs_of


class Judgement(NamedTuple):
    """Of each image, how far it is from the goal."""

    loss: Float[Tensor, " batch"]
    """What the attacker makes small; differentiable, and each image's depends on that image alone."""
    is_reached: Bool[Tensor, " batch"]
    """Whether the goal is reached."""


class Objective(Protocol):
    """What an attacker wants of a batch of images.

    An attack that has finished with some images goes on with the others; `rows` says which of the batch they are.
    """

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"], /) -> Judgement:
        """Judge images.

        Args:
            images: of the subject's pixel range.
            rows: the number of each in the batch that the attack began with.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossEntropy:
    """The cross-entropy of a class: to be made small with a target, and large without (then the loss is its negative).

    The goal is that the target is predicted, or that the own class is not.
    """

    subject: Subject
    classes: Int64[Tensor, " batch"]
    """The targets, or without a target the classes that the images are of."""
    is_targeted: bool

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        logits, classes = outputs_of(self.subject, images).logits, self.classes[rows]
        loss = cross_entropy(logits, classes, reduction="none")
        is_predicted = logits.detach().argmax(dim=1) == classes
        return Judgement(loss, is_predicted) if self.is_targeted else Judgement(-loss, ~is_predicted)


@dataclass(frozen=True, eq=False, kw_only=True)
class Margin:
    """By how much logits fall short of the goal, and of a confidence beyond it (Carlini and Wagner 2017).

    With a target t it is max_{k != t} l_k - l_t + kappa, without one l_y - max_{k != y} l_k + kappa; the goal is that
    it is below 0. Carlini and Wagner's own loss is its positive part, which their attack takes.
    """

    subject: Subject
    classes: Int64[Tensor, " batch"]
    """The targets, or without a target the classes that the images are of."""
    is_targeted: bool
    confidence: float = 0.0
    """kappa."""

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        lead = lead_of(outputs_of(self.subject, images).logits, self.classes[rows])
        loss = (-lead if self.is_targeted else lead) + self.confidence
        return Judgement(loss, loss.detach() < 0)


def lead_of(logits: Float[Tensor, "batch classes"], classes: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """By how much the logit of a class exceeds the largest other one; logits of any sign."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)  # no finite stand-in: logits may all be negative
    return own[:, 0] - others.amax(dim=1)


# ------------------------------------------------------------------------------------------------- targets


def random_other_classes(
    labels: Int64[Tensor, " batch"], classes: int, generators: Generators
) -> Int64[Tensor, " batch"]:
    """For each label a class that is not its own, all others being equally likely."""
    shifts = [int(torch.randint(1, classes, (), generator=generator)) for generator in generators]
    return (labels + torch.tensor(shifts).to(labels)) % classes


@torch.no_grad()
def least_likely_classes(subject: Subject, images: Images) -> Int64[Tensor, " batch"]:
    """The class that each image is least taken for (Kurakin et al. 2017)."""
    return outputs_of(subject, images).logits.argmin(dim=1)
