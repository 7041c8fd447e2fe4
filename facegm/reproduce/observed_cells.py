"""A cell that looks at a trained network's training images: what detectors are fitted to, once for all attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegm.classification.config import ImageRunConfig
from facegm.identity import chosen_in
from facegm.reproduce.cell_data import DataSize, evenly_spaced
from facegm.reproduce.cells import Cell, Outcome
from facegm.reproduce.experiment import OBSERVED
from facegm.reproduce.trained_cells import TrainedCell

if TYPE_CHECKING:
    from facegm.adversarial.observations import Observations
    from facegm.adversarial.trained import TrainedClassifier

FILE = "observations.safetensors"
"""In the cell's folder."""


@dataclass(frozen=True, eq=False)
class ObservedCell(Cell):
    """Features, logits and labels of training images, without augmentation.

    Args:
        config: of the network.
    """

    config: ImageRunConfig

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that is chosen in it and changes results, but for defaults."""
        return {"network": chosen_in(self.config), "observed": OBSERVED}

    @property
    def length(self) -> str:
        """How much there is to do, in words."""
        return "a look"

    def share_of_training(self, size: DataSize) -> float:
        """How long it takes, as a multiple of the training of its network; a third of a step is the forward pass."""
        return min(1.0, OBSERVED / size.images) / (3 * self.config.train.epochs)

    @property
    def needs(self) -> Sequence[Cell]:
        """The network."""
        return (TrainedCell(self.config),)

    def compute(self, cells: Path) -> Outcome:
        """Look at the images; the number is the accuracy on them, a percentage."""
        from facegm.data.weights import write_weights

        trained = self.classifier(cells)
        images = trained.training_images
        found = trained.observe(images, evenly_spaced(len(images.samples), OBSERVED))
        assert found.labels is not None
        folder = cells / self.name
        folder.mkdir(exist_ok=True)
        tensors = {"features": found.features, "logits": found.logits, "labels": found.labels}
        write_weights(folder / FILE, tensors, {"network": trained.fingerprint})
        accuracy = (found.predicted == found.labels).double().mean().item()
        return Outcome({"training_accuracy": 100 * accuracy}, "float32")

    def classifier(self, cells: Path) -> "TrainedClassifier":
        """The network, trained.

        Args:
            cells: the folder of all cells.
        """
        from facegm.adversarial.trained import TrainedClassifier
        from facegm.classification.classifier import MODEL_FILE

        return TrainedClassifier.load(cells / TrainedCell(self.config).name / MODEL_FILE, self.config.data)

    def observations(self, cells: Path) -> "Observations":
        """What it has found.

        Args:
            cells: the folder of all cells.

        Raises:
            FacegmError: the file is damaged.
        """
        from facegm.adversarial.observations import Observations
        from facegm.data.weights import read_weights

        return Observations(**read_weights(cells / self.name / FILE).tensors)
