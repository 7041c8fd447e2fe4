"""Tables of attacks on small digits: networks that are there already, and what their figures are by plain loops."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from facegm_commands import Command
from image_sets import alternating, pictures, write_mnist
from safetensors.torch import load_file
from table_pages import description_of_digits
from torch import Tensor

from facegm.classification.classifier import MODEL_FILE, ImageClassifier, load_classifier, save_classifier
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
FORKED = """
import multiprocessing
import facegm.reproduce.grid
facegm.reproduce.grid.get_context = lambda _: multiprocessing.get_context("fork")
facegm.reproduce.grid.LOOK_EVERY = 0.2
"""
"""Cells begin at once, in processes that have torch already."""
CODE = f"""{FORKED}
import time
import facegm.adversarial.crafted
import facegm.models.image_network
import facegm.reproduce.attack_measurement as measurement
import facegm.reproduce.verdict_measurement as verdict_measurement
facegm.adversarial.crafted.craft_in_batches.__kwdefaults__["batch_size"] = {BATCH}
facegm.models.image_network.CIFAR_DEPTHS = {DEPTHS}
"""
"""So it is here, and batches and networks are small."""
PAGELESS = """
import facegm.reproduce.reproduction
facegm.reproduce.reproduction.write_page = lambda *_: "no page"
"""
"""Where the page does not matter, which takes as long to draw as all the rest."""
SLOWLY = """
craft = measurement.craft
slowly = lambda *arguments, **others: (time.sleep(0.3), craft(*arguments, **others))[1]
measurement.craft = verdict_measurement.craft = slowly
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


def write_networks(options: Options) -> Reproduction:
    """Have the networks of all chosen cells trained: random ones, whose class vectors are right for eight digits.

    Args:
        options: of the table, whose data lie in the working folder.

    Returns:
        The table's grid.
    """
    reproduction, sets = Reproduction(options), DataSets()
    for cell in reproduction.work:
        if not isinstance(cell, TrainedCell):
            continue
        assert isinstance(cell.config, ImageRunConfig)
        folder = reproduction.cells_folder / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        _write_classifier(folder / MODEL_FILE, cell.config, seed=int(cell.name[:6], 16))
        data = sets.open(cell.config).description
        machine = {"device": "of a test", "precision": "float32", "torch": "2"}
        (folder / RESULT_FILE).write_text(json.dumps({"numbers": {"error": 0.0}, "data": data, "machine": machine}))
    return reproduction


def _write_classifier(file: Path, config: ImageRunConfig, *, seed: int) -> None:
    torch.manual_seed(seed)
    classifier = ImageClassifier(description_of_digits(config))
    images, labels = digits(TRAINING, 0), torch.tensor(TRAINING)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one look is enough for its statistics
    with torch.no_grad():
        classifier.train().features(images)
        features = classifier.eval().features(images)
        means = torch.stack([features[labels == number].mean(0) for number in range(10)])
        means[:2] = means[:2].flip(0)  # two classes are taken for each other
    if config.loss.name == "gm":
        vectors = {"loss.means": means}
    else:
        sign = -1 if config.loss.name == "rce" else 1  # there the lowest score predicts
        vectors = {"loss.weight": sign * means, "loss.bias": -sign * 0.5 * means.square().sum(dim=1)}
    save_classifier(file, classifier.description, classifier.state_dict() | vectors)


# ------------------------------------------------------------------------------------------------- figures


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def density(centers: Tensor, points: Tensor, bandwidth: float) -> np.ndarray:
    """Log K-density of each point, up to a constant, by a loop over the points."""
    found = []
    for point in points.double():
        exponents = [-((point - center) ** 2).sum().item() / (2 * bandwidth**2) for center in centers.double()]
        highest = max(exponents)
        found.append(highest + np.log(np.mean(np.exp(np.array(exponents) - highest))))
    return np.array(found)


def scores(kind: str, run: Path, images: Tensor) -> np.ndarray:
    """What a detector makes of images: K-density under the predicted class, or the likelihood of the nearest mean."""
    classifier = load_classifier(run / "classifier.safetensors")
    with torch.no_grad():
        points, training = classifier.features(images), classifier.features(digits(TRAINING, 0))
        predicted = classifier(images).argmax(dim=1)
    if kind == "gm-likelihood":
        means = load_file(run / "classifier.safetensors")["loss.means"]
        return np.array([max(-0.5 * ((x - mean) ** 2).sum().item() for mean in means) for x in points])
    (fitted,) = (run / "detectors").glob("k-density-*.safetensors")
    bandwidth, labels = load_file(fitted)["bandwidth_"].item(), torch.tensor(TRAINING)
    of_class = zip(points, predicted.tolist(), strict=True)
    return np.array([density(training[labels == k], x[None], bandwidth)[0] for x, k in of_class])


def area(normal: np.ndarray, other: np.ndarray) -> float:
    """The share of pairs of which the normal one scores higher, in percent; a tie is half a pair."""
    return 100 * float(np.mean([(a > b) + 0.5 * (a == b) for a in normal for b in other]))
