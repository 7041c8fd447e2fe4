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
from facegm.reproduce.trained_cells import TrainedCell

ATTACKED, SCORES_FILE = "attacked", "scores.safetensors"
"""In the cell's folder: the folder of the attacked images, and what each detector makes of them, as DETECTOR/clean,
DETECTOR/attacked and DETECTOR/noisy."""


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
        """How long it takes, as a multiple of the training of its network, by the passes of an image at most."""
        r = self.recipe
        tries = {"sign": max(1, r.restarts), "carlini_wagner": r.search_steps + 3 * r.defeats_detector}.get(r.loop, 1)
        return self.images * tries * r.iterations / (size.images * self.config.train.epochs)

    @property
    def needs(self) -> Sequence[Cell]:
        """The networks."""
        return [TrainedCell(config) for config in (self.config, self.judge) if config is not None]

    def compute(self, cells: Path) -> Outcome:
        """Attack, from where it stands, and measure what came of it."""
        import torch

        from facegm.adversarial.trained import TrainedClassifier
        from facegm.classification.classifier import MODEL_FILE
        from facegm.data.weights import write_weights
        from facegm.reproduce.attack_measurement import measure_attack

        networks = [TrainedClassifier.load(cells / one.name / MODEL_FILE, self.config.data) for one in self.needs]
        folder = cells / self.name
        found = measure_attack(
            folder / ATTACKED,
            self.recipe,
            networks[0],
            networks[-1],
            count=self.images,
            defeated=self.detector,
            detectors=self._detectors(),
        )
        scores = {
            f"{name}/{state}": torch.from_numpy(some)
            for name, one in found.scores.items()
            for state, some in one.items()
        }
        write_weights(folder / SCORES_FILE, scores, {})
        return Outcome(found.numbers, "float32")

    def _detectors(self) -> tuple[str, ...]:
        """Those that look at the attacked images: the one that is attacked, or all that the network lends itself to."""
        config = self.config
        if self.detector:
            return (self.detector,)
        if config.loss.name == "gm":
            return ("k-density", "gm-likelihood")
        if config.model.feature_dropout:
            return ("kd-bu",)
        if config.loss.name == "softmax" and config.data.set != "folder":
            return ("k-density", "i-defender", "lid")  # which go through more than there is room for of photos
        return ("k-density",)
