"""An attack as it is chosen and recorded: which loop over which objective, with what numbers."""

import math
from dataclasses import dataclass
from typing import Literal

from facegm.training.config import require

Loop = Literal["sign", "random_search", "carlini_wagner", "ddn", "orthogonal"]
"""`sign` is the loop of FGSM, BIM, ILCM and PGD; `orthogonal` alone needs a detector beside the network."""
Targets = Literal["random", "least_likely", "none"]


@dataclass(frozen=True, kw_only=True)
class AttackRecipe:
    """An attack. Bounds and steps are for a pixel range of width 1, as the paper's; with another they grow with it."""

    loop: Loop
    """How the images are changed."""
    targets: Targets = "random"
    """The class that each is to be taken for: a random other one, the one that the network finds least likely, or none,
    and any but its own will do."""
    defeats_detector: bool = False
    """Whether the detector is attacked together with the network (white-box)."""
    epsilon: float = 0.1
    """Of sign, random_search and orthogonal: the most that a pixel changes."""
    step: float = 0.01
    """Of sign and orthogonal: what a pixel changes by in an iteration."""
    iterations: int = 20
    """Steps of a try, of each step of the search of carlini_wagner; queries of random_search."""
    restarts: int = 0
    """Of sign: tries from random points; 0 for one from the clean image."""
    stops: bool = False
    """Of sign: whether an image is left alone as soon as it reaches the goal."""
    confidence: float = 0.0
    """kappa: by how much the logit of the target has to lead. Not of sign and ddn on the network alone, which lower a
    cross-entropy."""
    learning_rate: float = 0.001
    """Of carlini_wagner, by Adam."""
    search_steps: int = 5
    """Of carlini_wagner: tries with another weight of the objective."""
    initial_constant: float = 1.0
    """Of carlini_wagner: the first weight of the objective."""
    density_floor: bool = False
    """Of carlini_wagner on a detector: whether 1e-30 is added to the density, as in their published code, where
    gradients far from a class vanish; the logarithm alone is stronger."""
    seed: int = 0
    """Of random targets, points and squares."""

    def __post_init__(self) -> None:
        for name in ("epsilon", "step", "learning_rate", "initial_constant"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        for name in ("iterations", "search_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.restarts >= 0, "restarts", self.restarts, "at least 0")
        require(0 <= self.confidence < math.inf, "confidence", self.confidence, "at least 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        is_possible = self.defeats_detector or self.loop != "orthogonal"
        require(is_possible, "defeats_detector", self.defeats_detector, "true with orthogonal")
        is_possible = not self.defeats_detector or self.loop != "carlini_wagner" or self.targets != "none"
        require(is_possible, "targets", self.targets, "random or least_likely where carlini_wagner defeats a detector")

    @property
    def is_bounded(self) -> bool:
        """Whether no pixel changes by more than epsilon."""
        return self.loop in ("sign", "random_search", "orthogonal")


FGSM = AttackRecipe(loop="sign", step=0.1, iterations=1)
BIM = AttackRecipe(loop="sign")
ILCM = AttackRecipe(loop="sign", targets="least_likely")
CW = AttackRecipe(loop="carlini_wagner", iterations=1000)
CW_HC = AttackRecipe(loop="carlini_wagner", iterations=1000, confidence=10.0)
CW_WB = AttackRecipe(loop="carlini_wagner", iterations=1000, learning_rate=0.01, defeats_detector=True)

ATTACKS: dict[str, AttackRecipe] = {
    "fgsm": FGSM,
    "bim": BIM,
    "ilcm": ILCM,
    "pgd": AttackRecipe(loop="sign", iterations=40, restarts=5, stops=True),
    "cw": CW,
    "cw-hc": CW_HC,
    "ddn": AttackRecipe(loop="ddn", iterations=300),
    "square": AttackRecipe(loop="random_search", targets="none", iterations=5000),
    "cw-wb": CW_WB,
    "joint": AttackRecipe(loop="sign", iterations=200, restarts=1, defeats_detector=True),
    "orthogonal": AttackRecipe(loop="orthogonal", iterations=200, defeats_detector=True),
}
"""By the names of the command line. Constants of FGSM, BIM, ILCM and C&W: section 4.4 of Wan et al.; what it leaves
open is chosen: an L-infinity ball of 0.1 for BIM and ILCM too, 1,000 iterations and a first constant of 1 for C&W."""
