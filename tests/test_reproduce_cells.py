"""Protects what a cell of a grid ends with: a classifier's numbers, last and best, and a face network's accuracy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face_runs import small_config
from image_sets import alternating, pictures, write_mnist
from safetensors.torch import load_file
from table_pages import description_of_digits

from facegm.classification.classifier import BEST_FILE, MODEL_FILE, ImageClassifier, save_classifier
from facegm.classification.config import ImageDataConfig, ImageRunConfig
from facegm.errors import FacegmError
from facegm.eval.evaluation import evaluate
from facegm.eval.reports.report import write_report
from facegm.eval.sets.pairs import Pairs
from facegm.faces.config import FaceRunConfig
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.models.image_network import ImageModelConfig
from facegm.reproduce.cell_data import DataSets
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.trained_cells import TrainedCell, measure_classifier
from facegm.training.run_folder import METRICS_FILE

TEST = alternating(50, 10)


# ------------------------------------------------------------------------------------------------- classifiers


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ImageRunConfig:
    folder = tmp_path_factory.mktemp("digits")
    write_mnist(folder, alternating(30, 10), TEST)
    return ImageRunConfig(
        data=ImageDataConfig(set="mnist", folder=folder),
        model=ImageModelConfig(feature_dim=8),
        loss=LossConfig(name="gm", gm=GMLossConfig(alpha=1.0, likelihood_weight=0.1)),
    )


def write_classifier(file: Path, config: ImageRunConfig, learned: int) -> None:
    """A random network whose means are right for so many classes, and those of another one for the others."""
    torch.manual_seed(learned)
    description = description_of_digits(config)
    classifier = ImageClassifier(description).eval()
    images = torch.from_numpy(pictures(TEST, 28, 1, 1)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        features, labels = classifier.features(images), torch.tensor(TEST)
        means = torch.stack([features[labels == number].mean(0) for number in range(10)])
        means[learned:] = means[learned:].roll(1, dims=0)
    weights = classifier.state_dict() | {"loss.means": means}
    save_classifier(file, description, weights)


@pytest.mark.parametrize(
    ("validated", "best_error"),
    [([0.2, 0.7, 0.4], 30), ([0.7, 0.4], 30), ([0.4, 0.4], 30), ([0.2, 0.4], 60), ([0.4], 60)],
)
def test_the_best_epoch_is_the_first_of_the_highest_accuracy(
    validated: list[float], best_error: float, config: ImageRunConfig, tmp_path: Path
) -> None:
    """Its file is that of an earlier epoch, unless the last one is better than all before."""
    write_classifier(tmp_path / MODEL_FILE, config, learned=4)
    write_classifier(tmp_path / BEST_FILE, config, learned=7)
    lines = [{"step": 1, "loss": 2.0}, *({"step": 2, "validation_accuracy": share} for share in validated)]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = measure_classifier(tmp_path, config)
    assert numbers["error"] == pytest.approx(60)
    assert numbers["accuracy"] == pytest.approx(40)
    assert numbers["best_error"] == pytest.approx(best_error)
    assert numbers["best_accuracy"] == pytest.approx(100 - best_error)
    means = load_file(tmp_path / MODEL_FILE)["loss.means"].double().numpy()
    distances = [np.linalg.norm(means[i] - means[j]) for i in range(10) for j in range(i)]
    assert numbers["mean_distance"] == pytest.approx(np.mean(distances))
    assert numbers["distance_deviation"] == pytest.approx(np.std(distances))
    assert numbers["optimal_distance"] == pytest.approx(2.725, abs=5e-4)  # as the paper's figure 2 has it


def test_the_own_class_regulariser_has_no_optimal_distance(config: ImageRunConfig, tmp_path: Path) -> None:
    own = replace(config, loss=LossConfig(name="gm", gm=GMLossConfig(likelihood_weight=0.1, regularizer="own")))
    write_classifier(tmp_path / MODEL_FILE, own, learned=10)
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "validation_accuracy": 1.0}\n')
    numbers = measure_classifier(tmp_path, own)
    assert numbers["error"] == 0
    assert "mean_distance" in numbers
    assert "optimal_distance" not in numbers


def test_data_sets_tell_images_apart_and_know_their_size(config: ImageRunConfig, tmp_path: Path) -> None:
    sets = DataSets()
    size, description = sets.open(config)
    assert size == (30, 10, 1, 28)
    assert description.startswith("30 training images (")
    assert " and 50 test images (" in description
    write_mnist(tmp_path, alternating(30, 10), TEST, suffix="")
    moved = replace(config, data=replace(config.data, folder=tmp_path))
    assert DataSets().open(moved).description == description
    write_mnist(tmp_path, alternating(30, 10)[::-1], TEST, suffix="")
    assert DataSets().open(moved).description.split(" and ")[1] == description.split(" and ")[1]
    assert DataSets().open(moved).description != description
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FacegmError, match="t10k-labels"):
        DataSets().open(moved)
    assert sets.size(moved) == (60_000, 10, 1, 28)  # the published set's


# ------------------------------------------------------------------------------------------------- faces


def test_data_sets_know_faces(small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store)
    size, description = DataSets().open(config)
    assert size == (48, 6, 3, 48)
    assert description.startswith("48 faces (")
    fewer = replace(config, data=replace(config.data, exclude_identities=["person_2"]))
    assert DataSets().open(fewer).size == (40, 5, 3, 48)
    assert DataSets().open(fewer).description != description
    missing = replace(config, data=replace(config.data, store=tmp_path / "none"))
    with pytest.raises(FacegmError, match="none"):
        DataSets().open(missing)
    assert DataSets().size(missing) == (494_414, 10_575, 3, 48)


def test_a_cell_of_faces_has_its_accuracy_on_lfw(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary variant's, of a real report on made-up embeddings, written where the verification is asked to."""
    rng = np.random.default_rng(0)
    people = [f"P{number}/P{number}_0001.jpg" for number in range(160)]
    row = np.arange(80)
    pairs = Pairs(tuple(people[:80]), tuple(people[80:]), row % 2 == 0, row // 20)
    left = rng.normal(size=(80, 96))
    right = np.where(pairs.same[:, None], left, rng.normal(size=left.shape)) + 2.5 * rng.normal(size=left.shape)
    report = evaluate(pairs, people, np.concatenate([left, right]))
    accuracies = [one.accuracy for one in report.verifications]
    assert 0.5 < accuracies[0] < 1
    assert accuracies.count(accuracies[0]) == 1, "another variant could be taken for it"
    config, lfw, done = small_config(small_store), tmp_path / "lfw", list[object]()

    def train(given: FaceRunConfig, run: Path) -> None:
        assert given is config
        run.mkdir()
        done.append("trained")

    def verify(model: Path, photos: Path, output: Path, *, workers: int) -> None:
        done.append((model, photos))
        write_report(output, report)

    monkeypatch.setattr("facegm.faces.run.train_run", train)
    monkeypatch.setattr("facegm.eval.verify_lfw.verify_lfw", verify)
    cell = TrainedCell(config, lfw)
    assert cell.result(tmp_path) is None
    cell.finish(tmp_path)
    assert done == ["trained", (tmp_path / cell.name, lfw)]
    result = cell.result(tmp_path)
    assert result is not None
    assert result.numbers == {"lfw_accuracy": pytest.approx(100 * accuracies[0])}
    assert result.data == DataSets().open(config).description
    assert result.machine["precision"] == "float32"
    assert result.machine["torch"] == torch.__version__
    (tmp_path / cell.name / RESULT_FILE).write_text("{")
    assert cell.result(tmp_path) is None
