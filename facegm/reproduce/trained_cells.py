"""A cell that is trained: a run in the cell's folder, and the numbers that it ended with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.classification.config import ImageRunConfig
from facegm.reproduce.cell_data import DataSize, RunConfig
from facegm.reproduce.cells import Cell, Outcome
from facegm.training.log import VALIDATION
from facegm.training.run_folder import read_metrics


@dataclass(frozen=True, eq=False)
class TrainedCell(Cell):
    """A run of a grid.

    Args:
        config: what is trained.
        lfw: of a face network, the photos or the store that it is verified on.
    """

    config: RunConfig
    lfw: Path | None = None

    @property
    def length(self) -> str:
        """How much there is to do, in words."""
        return f"{self.config.train.epochs:g} epochs"

    def share_of_training(self, size: DataSize) -> float:  # noqa: ARG002 - whatever it is
        """How long it takes, as a multiple of the training of its network."""
        return 1.0

    def compute(self, cells: Path) -> Outcome:
        """Train to the end, and measure what was trained."""
        import torch

        from facegm.training.devices import autocast_dtype, default_device

        run, config = cells / self.name, self.config
        if isinstance(config, ImageRunConfig):
            from facegm.classification.run import train_run as train_classifier

            train_classifier(config, run)
            numbers = measure_classifier(run, config)
        else:
            from facegm.eval.verify_lfw import verify_lfw
            from facegm.faces.run import train_run as train_face_network

            assert self.lfw is not None
            train_face_network(config, run)
            verify_lfw(run, self.lfw, run / "lfw", workers=1)
            numbers = measure_embedder(run)
        precision = autocast_dtype(config.train.precision, default_device()) or torch.float32
        return Outcome(numbers, str(precision).removeprefix("torch."))


# ------------------------------------------------------------------------------------------------- numbers


def measure_classifier(run: Path, config: ImageRunConfig) -> dict[str, float]:
    """Percentages on the test images, in float32.

    They are `accuracy`, `error`, and where there are more than five classes `top5_error`, after the last epoch, and
    `best_accuracy` and so on after the validated epoch that had the best accuracy; with the GM loss also
    `mean_distance`, `distance_deviation` and `optimal_distance` of the means.

    Args:
        run: the run folder, at its end.
        config: its configuration.
    """
    from facegm.classification.classifier import BEST_FILE, MODEL_FILE, ImageClassifier, load_classifier
    from facegm.classification.data import open_images
    from facegm.classification.evaluation import evaluate
    from facegm.classification.prediction import ImageSet, predict
    from facegm.losses.gm_module import GMLoss
    from facegm.training.devices import default_device
    from facegm.training.geometry_chart import geometry_numbers
    from facegm.training.report import EVALUATION_BATCH

    classifier, device = load_classifier(run / MODEL_FILE), default_device()
    test = open_images(config.data, "test", classes=classifier.description.classes)
    images, workers = ImageSet(name="test images", samples=test.samples, crop=test.crop), config.data.workers

    def on_test_images(of: ImageClassifier) -> dict[str, float]:
        of.to(device)
        found = evaluate(predict(of, images, batch_size=EVALUATION_BATCH, workers=workers, device=device))
        numbers = {"accuracy": 100 * found.accuracy, "error": 100 * (1 - found.accuracy)}
        return numbers if found.top5 is None else numbers | {"top5_error": 100 * (1 - found.top5)}

    numbers = on_test_images(classifier)
    validated = [line[f"{VALIDATION}accuracy"] for line in read_metrics(run) if f"{VALIDATION}accuracy" in line]
    is_last_best = validated[-1] > max(validated[:-1], default=-1.0)
    best = numbers if is_last_best else on_test_images(load_classifier(run / BEST_FILE))
    numbers = numbers | {f"best_{name}": value for name, value in best.items()}
    if not isinstance(classifier.loss, GMLoss):
        return numbers
    weight = config.loss.gm.likelihood_weight if config.loss.gm.regularizer == "mixture" else 0.0
    found = geometry_numbers(classifier.loss.means.detach(), weight)
    numbers |= {"mean_distance": found.average, "distance_deviation": found.deviation}
    return numbers if found.optimum is None else numbers | {"optimal_distance": found.optimum}


def measure_embedder(run: Path) -> dict[str, float]:
    """Of a face network `lfw_accuracy` by the protocol, a percentage, from its report."""
    report: dict[str, Any] = json.loads((run / "lfw" / "report.json").read_bytes())
    return {"lfw_accuracy": 100 * float(report["variants"][0]["accuracy"])}
