"""What an attacker wants of a face verification system: to pass for someone else, or not to be known again."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from facegm.adversarial.objectives import Judgement
from facegm.adversarial.subject import Images, Subject
from facegm.adversarial.verifier import Verifier

Goal = Literal["impersonation", "dodging"]
"""Impersonation: the photo is judged to show the person of another one, who is somebody else. Dodging: it is not judged
to show its own person, of whom the other photo is."""
GOALS: tuple[Goal, ...] = ("impersonation", "dodging")


@dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingDistance:
    """By how much the squared distance of two photos' embeddings is on the wrong side of the verifier's threshold.

    With e(x) what is compared of the attacked photo, e' of the other one, and the fold's threshold t, the loss is
    |e(x) - e'|^2 - t^2 + margin for impersonation, and t^2 - |e(x) - e'|^2 + margin for dodging. Carlini and Wagner's
    attack takes its positive part. The goal is reached where the verifier's decision is the attacker's, whatever the
    margin: the protocol accepts a pair where the distance is below the threshold. Distances are squared so that the
    gradient exists everywhere.
    """

    subject: Subject
    """Its features are embeddings, mirror images averaged."""
    verifier: Verifier
    """On the subject's device."""
    goal: Goal
    references: Float[Tensor, "batch components"]
    """e': what the verifier compares of the other photos."""
    folds: Int64[Tensor, " batch"]
    """Of the pairs."""
    margin: float = 0.0
    """Squared distance beyond the threshold below which the attacker goes on."""

    def __call__(self, images: Images, rows: Int64[Tensor, " batch"]) -> Judgement:
        """Judge images."""
        folds = self.folds[rows]
        compared = self.verifier.compared(self.subject.features(images), folds)
        squared_distance = (compared - self.references[rows]).square().sum(dim=1)
        excess = squared_distance - self.verifier.thresholds[folds].to(squared_distance).square()
        is_accepted = excess.detach() < 0
        if self.goal == "impersonation":
            return Judgement(excess + self.margin, is_accepted)
        return Judgement(self.margin - excess, ~is_accepted)
