"""Tables of attacks on small digits: networks that are there already, and what their figures are by plain loops."""

import json
from pathlib import Path

import torch
from facegm_commands import Command
from image_sets import alternating, pictures, write_mnist
from table_pages import description_of_digits
from torch import Tensor

from facegm.classification.classifier import MODEL_FILE, ImageClassifier, save_classifier
from facegm.classification.config import ImageRunConfig
from facegm.reproduce.cell_data import DataSets
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.reproduction import Options, Reproduction
from facegm.reproduce.trained_cells import TrainedCell

TRAINING, TEST, BATCH = alternating(120, 10), alternating(40, 10), 10
CONFIG = """
task: classification
data: {set: mnist, folder: data/small}
preprocessing: {mean: [0.5], std: [0.25]}
optimizer: {learning_rate: 0.1, clip_gradient: 5}
train: {epochs: 8, batch_size: 20, precision: float32, compile: false, checkpoint_every: 100, log_every: 100}
validation: {every_epochs: 8}
"""
DEPTHS = {"resnet32": 8, "resnet56": 14}
"""Of networks in these tests."""
CODE = f"""
import multiprocessing
import time
import facegm.adversarial.crafted
import facegm.models.image_network
import facegm.reproduce.attack_measurement as measurement
import facegm.reproduce.grid
facegm.reproduce.grid.get_context = lambda _: multiprocessing.get_context("fork")
facegm.reproduce.grid.LOOK_EVERY = 0.2
facegm.adversarial.crafted.craft_in_batches.__kwdefaults__["batch_size"] = {BATCH}
facegm.models.image_network.CIFAR_DEPTHS = {DEPTHS}
"""
"""Cells begin at once, in processes that have torch already; batches and networks are small."""
SLOWLY = """
craft = measurement.craft
measurement.craft = lambda *arguments, **others: (time.sleep(0.3), craft(*arguments, **others))[1]
"""
"""So that a command can be killed between two batches."""


def write_digits(folder: Path) -> None:
    write_mnist(folder / "data" / "small", TRAINING, TEST)
    (folder / "small.yaml").write_text(CONFIG)


def begin(folder: Path, table: str, *options: str, name: str = "output.txt", code: str = "") -> Command:
    return Command(["reproduce", table, "--config=small.yaml", *options], folder, code=CODE + code, name=name)


def digits(labels: list[int], seed: int) -> Tensor:
    """Of 0 to 1, as `write_mnist` has them."""
    return torch.from_numpy(pictures(labels, 28, 1, seed)).permute(0, 3, 1, 2).float() / 255


def write_networks(options: Options, *, but: str = "none") -> None:
    """Have the networks of all chosen cells trained: random ones, whose class vectors are right for most digits.

    Args:
        options: of the table, whose data lie in the working folder.
        but: loss of the networks that are left to the command.
    """
    reproduction, sets = Reproduction(options), DataSets()
    for cell in reproduction.work:
        if not isinstance(cell, TrainedCell) or cell.config.loss.name == but:
            continue
        assert isinstance(cell.config, ImageRunConfig)
        folder = reproduction.cells_folder / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        _write_classifier(folder / MODEL_FILE, cell.config)
        data = sets.open(cell.config).description
        machine = {"device": "of a test", "precision": "float32", "torch": "2"}
        (folder / RESULT_FILE).write_text(json.dumps({"numbers": {"error": 0.0}, "data": data, "machine": machine}))


def _write_classifier(file: Path, config: ImageRunConfig) -> None:
    torch.manual_seed(config.train.seed)
    classifier = ImageClassifier(description_of_digits(config))
    images, labels = digits(TRAINING, 0), torch.tensor(TRAINING)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one look is enough for its statistics
    with torch.no_grad():
        classifier.train().features(images)
        features = classifier.eval().features(images)
        means = torch.stack([features[labels == number].mean(0) for number in range(10)])
    if config.loss.name == "gm":
        vectors = {"loss.means": means}
    else:
        sign = -1 if config.loss.name == "rce" else 1  # there the lowest score predicts
        vectors = {"loss.weight": sign * means, "loss.bias": -sign * 0.5 * means.square().sum(dim=1)}
    save_classifier(file, classifier.description, classifier.state_dict() | vectors)
