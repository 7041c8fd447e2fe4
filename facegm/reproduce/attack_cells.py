"""A cell that attacks: test images after an attack on a trained network, and what detectors make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.adversarial.recipe import AttackRecipe
from facegm.classification.config import ImageRunConfig
from facegm.identity import chosen_in, identity_of
from facegm.reproduce.cell_data import DataSize
from facegm.reproduce.cells import Cell, Outcome
from facegm.reproduce.observed_cells import ObservedCell
from facegm.reproduce.trained_cells import TrainedCell

FOLDER = "attacked"
"""With the attacked images, in the cell's folder."""


@dataclass(frozen=True, eq=False)
class AttackCell(Cell):
    """An attack on a trained network.

    Args:
        config: of the network that the images are made with.
        recipe: the attack.
        images: test images, of which those are attacked that are classified right.
        detector: the one that is defeated together with the network; empty where the recipe defeats none.
        judge: of the network that looks at the attacked images, where it is another one.
    """

    config: ImageRunConfig
    recipe: AttackRecipe
    images: int
    detector: str = ""
    judge: ImageRunConfig | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that is chosen in it and changes results, but for defaults."""
        judge = {} if self.judge is None else chosen_in(self.judge)
        own = {"recipe": identity_of(self.recipe), "images": self.images, "detector": self.detector}
        return {"network": chosen_in(self.config), "judge": judge, **own}

    @property
    def length(self) -> str:
        """How much there is to do, in words."""
        return f"{self.images:,} images"

    def share_of_training(self, size: DataSize) -> float:
        """How long it takes, as a multiple of the training of its network."""
        return self.images * self.recipe.passes / (size.images * self.config.train.epochs)

    @property
    def needs(self) -> Sequence[Cell]:
        """The networks, and what they make of their training images."""
        networks = [self.config] if self.judge is None else [self.config, self.judge]
        return [kind(config) for config in networks for kind in (TrainedCell, ObservedCell)]

    def compute(self, cells: Path) -> Outcome:
        """Attack, from where it stands, and measure what came of it."""
        ...
