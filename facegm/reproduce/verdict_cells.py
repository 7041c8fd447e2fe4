"""A cell that puts a trained network and its detector on trial, and the verdict that it keeps in words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.adversarial.recipe import AttackRecipe
from facegm.classification.config import ImageRunConfig
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError
from facegm.identity import chosen_in, identity_of
from facegm.reproduce.attack_cells import ATTACKED
from facegm.reproduce.cell_data import DataSize
from facegm.reproduce.cells import RESULT_FILE, Cell, Outcome
from facegm.reproduce.table import Entry, Results
from facegm.reproduce.trained_cells import TrainedCell

VERDICT_FILE = "verdict.json"
"""In the cell's folder: the verdict's sentences, and whether robustness is claimed."""
QUERIES = 25
"""Of the attack without gradients, for each iteration of the one with: 5,000 for 200."""


@dataclass(frozen=True, eq=False)
class VerdictCell(Cell):
    """A verdict on a trained network with a detector.

    Args:
        config: of the network.
        substitute: of the one on which images are crafted that are transferred.
        recipe: the attack on network and detector, towards chosen targets.
        images: test images, of which those are attacked that are classified right.
        detector: its name.
        budgets: the most that a pixel may change, in turn.
    """

    config: ImageRunConfig
    substitute: ImageRunConfig
    recipe: AttackRecipe
    images: int
    detector: str
    budgets: Sequence[float]

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that is chosen in it and changes results, but for defaults."""
        return {
            "network": chosen_in(self.config),
            "substitute": chosen_in(self.substitute),
            "recipe": identity_of(self.recipe),
            "images": self.images,
            "detector": self.detector,
            "budgets": list(self.budgets),
            "queries": QUERIES,
        }

    @property
    def length(self) -> str:
        """How much there is to do, in words."""
        return f"{self.images:,} images"

    def share_of_training(self, size: DataSize) -> float:
        """How long it takes, as a multiple of the training of its network, by the passes of an image at most."""
        attacks = len({*self.budgets, self.recipe.epsilon}) + 4  # twice the iterations, on a substitute, no detector
        passes = self.recipe.iterations * (2 * attacks + QUERIES / 3)  # a query takes no backward pass
        return self.images * passes / (size.images * self.config.train.epochs)

    @property
    def needs(self) -> Sequence[Cell]:
        """The network and the substitute."""
        return [TrainedCell(self.config), TrainedCell(self.substitute)]

    def compute(self, cells: Path) -> Outcome:
        """Attack in all ways, from where it stands, and write down the verdict."""
        from facegm.adversarial.trained import TrainedClassifier
        from facegm.classification.classifier import MODEL_FILE
        from facegm.reproduce.verdict_measurement import measure_verdict, numbers_of

        network, substitute = (
            TrainedClassifier.load(cells / one.name / MODEL_FILE, self.config.data) for one in self.needs
        )
        folder = cells / self.name
        verdict = measure_verdict(
            folder / ATTACKED,
            self.recipe,
            network,
            substitute,
            count=self.images,
            detector=self.detector,
            budgets=self.budgets,
            queries=QUERIES * self.recipe.iterations,
        )
        words = {"claims_robustness": verdict.claims_robustness, "sentences": verdict.sentences()}
        replace_atomically(folder / VERDICT_FILE, (json.dumps(words, indent=1) + "\n").encode())
        return Outcome(numbers_of(verdict), "float32")


def verdicts_of(entries: Sequence[Entry], results: Results, cells: Path) -> list[str]:
    """The verdicts of a table in words, a paragraph each.

    Args:
        entries: of the whole grid.
        results: of finished cells.
        cells: the folder of all cells.

    Raises:
        FacegmError: the words of a finished verdict are missing or damaged.
    """
    titles = {
        p.cell.name: f"{p.row.title}, seed {p.seed}"
        for p in entries
        if isinstance(p.cell, VerdictCell) and p.cell.name in results
    }
    return [f"{title}: {' '.join(_sentences(cells / name))}" for name, title in titles.items()]


def _sentences(folder: Path) -> list[str]:
    """Of a finished verdict."""
    file = folder / VERDICT_FILE
    try:
        return [str(sentence) for sentence in json.loads(file.read_bytes())["sentences"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FacegmError(
            f"{file}: missing or damaged; remove {folder / RESULT_FILE}, and the verdict is reached anew"
        ) from error
