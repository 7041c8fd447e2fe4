"""Protects the pages of reproduced tables and figures: their numbers are those of the cells, and what lacks is said."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sets import alternating, pictures, write_mnist
from naive_networks import naive_lenet
from safetensors.torch import load_file
from table_pages import TablePage, description_of_digits

from facegm.classification.classifier import MODEL_FILE, ImageClassifier, save_classifier
from facegm.classification.config import ImageRunConfig
from facegm.losses.gm_module import GMLoss
from facegm.reproduce.budget import Budget
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.paper import EXPERIMENTS
from facegm.reproduce.presentation import write_page
from facegm.reproduce.reproduction import Options, Reproduction
from facegm.reproduce.table import Entry
from facegm.training.geometry_chart import CHART_FILE

TRAINING, TEST = alternating(120, 10), alternating(40, 10)


class Written:
    """A table or figure some of whose cells are finished, without any training.

    Args:
        name: which.
        folder: output folder.
        numbers: what a cell has come to; None where it is not finished.
        options: others.
    """

    def __init__(
        self, name: str, folder: Path, numbers: Callable[[Entry], Mapping[str, float] | None], **options: Any
    ) -> None:
        self.name = name
        self.plan = Reproduction(Options(name=name, data=folder / "data", output=folder, **options))
        for entry in self.plan.entries:
            found = numbers(entry)
            if found is not None:
                run = self.run(entry)
                run.mkdir(parents=True, exist_ok=True)
                result = {"numbers": found, "data": "none", "machine": {}}
                (run / RESULT_FILE).write_text(json.dumps(result))

    def run(self, entry: Entry) -> Path:
        return self.plan.cells_folder / entry.cell.name

    def page(self) -> TablePage:
        p = self.plan
        stem = p.cells_folder.parent / self.name
        file = write_page(self.name, p.experiment, p.entries, p.results(), p.cells_folder, stem)
        assert file == stem.with_name(f"{self.name}.html")
        source = file.read_text()
        assert "script" not in TablePage(source).tags
        assert not re.search(r"url\(|https?:|@import", source)
        return TablePage(source)


def on_curves(figure: Any) -> list[dict[str, tuple[float, str]]]:
    """Of each curve, by the label below it, where a dot lies, and what is written at it."""
    axes = figure.axes[0]
    labels = dict(zip(axes.get_xticks().tolist(), (tick.get_text() for tick in axes.get_xticklabels()), strict=True))
    curves: dict[Any, dict[str, tuple[float, str]]] = {}
    for note in axes.texts:
        curves.setdefault(note.get_color(), {})[labels[note.xy[0]]] = note.xy[1], note.get_text()
    dots = {(labels[x], y) for collection in axes.collections for x, y in collection.get_offsets().tolist()}
    assert {(label, y) for curve in curves.values() for label, (y, _) in curve.items()} <= dots
    return list(curves.values())


# ------------------------------------------------------------------------------------------------- Fig. 1


def classifier_of(config: ImageRunConfig, seed: int) -> ImageClassifier:
    """Untrained; its features are spread over some units, the means of the GM loss lie amid those of their classes."""
    torch.manual_seed(seed)
    classifier = ImageClassifier(description_of_digits(config)).eval()
    images, labels = unit_images(TRAINING, 0), torch.tensor(TRAINING)
    with torch.no_grad():
        classifier.network.features.weight *= 3 / classifier.features(images).std()  # type: ignore[operator, union-attr]
        if isinstance(classifier.loss, GMLoss):
            features = classifier.features(images)
            classifier.loss.means[:] = torch.stack([features[labels == number].mean(0) for number in range(10)])
    return classifier


def unit_images(labels: list[int], seed: int) -> torch.Tensor:
    """The images that `write_mnist` writes."""
    return torch.from_numpy(pictures(labels, 28, 1, seed)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def fig1(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("fig1")
    write_mnist(folder / "data" / "mnist", TRAINING, TEST)
    errors = {row.title: 10.25 + number for number, row in enumerate(EXPERIMENTS["fig1"].rows)}
    written = Written("fig1", folder, lambda entry: {"error": errors[entry.row.title]})
    for seed, entry in enumerate(written.plan.entries):
        assert isinstance(entry.cell.config, ImageRunConfig)
        classifier = classifier_of(entry.cell.config, seed)
        save_classifier(written.run(entry) / MODEL_FILE, classifier.description, classifier.state_dict())
    return written


def naive_log_density(points: np.ndarray, centers: np.ndarray, bandwidth: float) -> np.ndarray:
    squares = np.square(points[:, None] - centers[None]).sum(axis=2)
    kernels = np.exp(-squares / (2 * bandwidth**2)) / (2 * math.pi * bandwidth**2)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(kernels.mean(axis=1)))


def test_fig1s_caption_has_the_numbers_of_the_exported_classifier(fig1: Written, figures: list[Any]) -> None:
    """The density of the GM loss with alpha = 1, over its training features; all by the network written out."""
    page = fig1.page()
    entry = next(p for p in fig1.plan.entries if p.row.title == "GM alpha=1")
    tensors = load_file(fig1.run(entry) / MODEL_FILE)
    order = [name for name, _ in classifier_of(entry.cell.config, 0).network.named_parameters()]  # type: ignore[arg-type]
    weights = [tensors[f"network.{name}"] for name in order]

    def features_of(images: torch.Tensor) -> torch.Tensor:
        return naive_lenet(weights, (images - 0.1307) / 0.3081)

    images, labels = unit_images(TEST, 1), torch.tensor(TEST)
    seeds = [int(np.random.SeedSequence([0, n]).generate_state(1, np.uint64)[0]) for n in range(len(TEST))]
    shifts = [torch.randint(1, 10, (), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    targets = (labels + torch.stack(shifts)) % 10
    images.requires_grad_()
    features = features_of(images)
    logits = -0.5 * (features[:, None] - tensors["loss.means"]).square().sum(dim=2)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), images)
    attacked = features_of((images - 0.1 * gradient.sign()).clamp(0, 1)).detach().double().numpy()
    right = (logits.argmax(dim=1) == labels).numpy()
    assert 10 < right.sum() < len(TEST), "all images could be taken"
    training = features_of(unit_images(TRAINING, 0)).detach().double().numpy()
    clean = features.detach().double().numpy()[right]
    is_held_out = np.arange(len(training)) % 5 == 0
    widths = [0.01 * 10 ** (step / 10) for step in range(31)]
    fits = [naive_log_density(training[is_held_out], training[~is_held_out], width).mean() for width in widths]
    bandwidth = widths[int(np.argmax(fits))]
    assert widths[0] < bandwidth < widths[-1]
    assert bandwidth != pytest.approx(1)
    medians = [
        float(np.median(naive_log_density(points, training, width)))
        for width in (bandwidth, 1.0)
        for points in (clean, attacked[right])
    ]
    assert medians[0] - medians[1] > 0.1
    number = r"(-?\d+\.\d\d)"
    found = re.search(
        r"120 training images, .* deviation ([\d.]+), the likeliest .* (\d+) test images before .*"
        rf"median log density {number} and {number}, with kernels of 1, the model's own, {number} and {number}\.",
        page.text,
    )
    assert found is not None, page.text
    assert float(found[1]) == pytest.approx(bandwidth, rel=0.05)
    assert int(found[2]) == right.sum()
    assert [float(text) for text in found.groups()[2:]] == pytest.approx(medians, abs=0.03)

    (picture,) = page.pictures("image/png")
    assert picture == (fig1.plan.cells_folder.parent / "fig1-embeddings.png").read_bytes()
    titles = [axes.get_title() for axes in figures[0].axes if axes.get_title()]
    assert titles == [
        "(a) softmax, test error 12.25 %",
        "(b) center, test error 10.25 %",
        "(c) L-Softmax, test error 11.25 %",
        "(d) GM alpha=0, test error 13.25 %",
        "(e) GM alpha=1, test error 15.25 %",
        "(f) GM alpha=1",
    ]
    assert "There is no picture yet" not in page.text
    assert page.rows[0] == ["", "2-D|"]
    assert page.rows[1] == ["center|", "10.25 (1 seed)|paper 1.45 ± 0.01|"]


def test_fig1_without_one_of_its_cells_names_it(fig1: Written) -> None:
    entry = next(p for p in fig1.plan.entries if p.row.title == "L-Softmax")
    file = fig1.run(entry) / RESULT_FILE
    text = file.read_text()
    file.unlink()
    try:
        page = fig1.page()
    finally:
        file.write_text(text)
    assert page.loads == []
    assert "There is no picture yet: these cells are not done: L-Softmax, 2-D, seed 0." in page.text
    assert page.rows[2][:2] == ["L-Softmax|", "-|paper 1.30 ± 0.02|"]


# ------------------------------------------------------------------------------------------------- others


def test_fig2_shows_the_charts_of_the_cells_that_are_done(tmp_path: Path) -> None:
    lacking = EXPERIMENTS["fig2"].rows[1].title
    numbers = {"mean_distance": 2.5, "distance_deviation": 0.125, "optimal_distance": 2.725}
    written = Written("fig2", tmp_path, lambda p: None if p.row.title == lacking else numbers | {"error": 1})
    charts = []
    for entry in written.plan.entries:
        if entry.row.title != lacking and entry.column is written.plan.experiment.columns[0]:
            charts.append(f"<svg>{entry.title}</svg>".encode())
            (written.run(entry) / CHART_FILE).write_bytes(charts[-1])
    page = written.page()
    assert page.pictures("image/svg+xml") == charts[:2]  # of seed 0
    assert [row[1:] for row in page.rows[1:]] == [
        ["2.50 ± 0.00 (3 seeds)|", "0.12 ± 0.00 (3 seeds)|", "2.73 ± 0.00 (3 seeds)|"],
        ["-|"] * 3,
        ["2.50 ± 0.00 (3 seeds)|", "0.12 ± 0.00 (3 seeds)|", "2.73 ± 0.00 (3 seeds)|"],
    ]


def test_fig4s_curves_have_each_cells_accuracy_at_its_place(tmp_path: Path, figures: list[Any]) -> None:
    """The cell that both curves share has one accuracy; one that is not done has none."""

    def accuracy(entry: Entry) -> Mapping[str, float] | None:
        gm = entry.cell.config.loss.gm
        return None if gm.alpha == 0.03 else {"lfw_accuracy": 98 + 3 * gm.alpha + 50 * gm.likelihood_weight}

    page = Written("fig4", tmp_path, accuracy).page()
    assert page.pictures("image/svg+xml") == [
        (tmp_path / f"fig4-{name}.svg").read_bytes() for name in ("alpha", "lambda")
    ]
    alphas = {f"{alpha:g}": 98 + 3 * alpha + 0.05 for alpha in (0, 0.001, 0.003, 0.01, 0.1)}
    weights = {f"{weight:g}": 98 + 0.03 + 50 * weight for weight in (0, 0.0001, 0.0003, 0.001, 0.003, 0.01)}
    for figure, expected in zip(figures, (alphas, weights), strict=True):
        (curve,) = on_curves(figure)
        assert {label: y for label, (y, _) in curve.items()} == pytest.approx(expected)
        assert {label: text for label, (_, text) in curve.items()} == {at: f"{y:.2f}" for at, y in expected.items()}
    assert [figure.axes[0].get_xlabel() for figure in figures] == ["alpha", "lambda"]
    for text in ("With lambda=0.001.", "With alpha=0.01."):
        assert text in page.text
    rows = {row[0]: row[1] for row in page.rows[1:]}
    assert rows["lambda=0.001, alpha=0.03|"] == "-|"
    assert rows["lambda=0.001, alpha=0|"] == "98.05 (1 seed)|paper 98.80|"
    assert rows["lambda=0.001, alpha=0.01|"] == rows["alpha=0.01, lambda=0.001|"] == "98.08 (1 seed)|"


def test_table6s_curves_have_the_means_over_seeds_and_its_head_the_budget(tmp_path: Path, figures: list[Any]) -> None:
    def accuracy(entry: Entry) -> Mapping[str, float]:
        gm = entry.cell.config.loss.gm
        value = 70 + 10 * gm.alpha + 20 * gm.likelihood_weight + entry.seed / 4
        return {"accuracy": value, "best_accuracy": value + 1}

    page = Written("table6", tmp_path, accuracy, budget=Budget.parse("30epochs")).page()
    low, high = on_curves(figures[0])
    for curve, weight in ((low, 0.01), (high, 0.1)):
        means = {f"{alpha:g}": 70 + 10 * alpha + 20 * weight + 0.25 for alpha in (0, 0.1, 0.2, 0.3, 0.4, 0.5)}
        assert {label: text for label, (_, text) in curve.items()} == {at: f"{y:.2f}" for at, y in means.items()}
        assert {label: y - 0.25 for label, (y, _) in curve.items()} == pytest.approx(means)  # above the best seed
    assert {text.get_text() for text in figures[0].axes[0].get_legend().get_texts()} == {"lambda=0.01", "lambda=0.1"}
    assert page.pictures("image/svg+xml") == [(tmp_path / "table6-alpha.svg").read_bytes()]
    epochs = Reproduction(Options(name="table6")).entries[0].cell.config.train.epochs
    length = f"shortened: 30 of {epochs:g} epochs"
    assert page.text.index(f"Made with a budget, {length}. These are not the") < page.text.index("lambda=0.01")
    assert [row[0] for row in page.rows[1:]] == [f"lambda=0.01|{length}|", f"lambda=0.1|{length}|"]
    assert page.rows[2][4] == "75.25 ± 0.25 (3 seeds); best validated epoch 76.25 ± 0.25 (3 seeds)|paper 79.24|"


def test_runs_of_the_whole_length_have_no_note_of_a_budget(tmp_path: Path) -> None:
    page = Written("table6", tmp_path, lambda _: {"accuracy": 70.0}).page()
    assert "budget" not in page.text
    assert [row[0] for row in page.rows[1:]] == ["lambda=0.01|", "lambda=0.1|"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_there_is_a_page_before_any_cell_is_done(name: str, tmp_path: Path) -> None:
    """As of a command whose cells have all failed."""
    written = Written(name, tmp_path, lambda _: None)
    page = written.page()
    assert [[cell.partition("|")[0] for cell in row[1:]] for row in page.rows[1:]] == [
        ["-"] * len(written.plan.experiment.columns)
    ] * len(written.plan.experiment.rows)
    assert ("There is no picture yet" in page.text) == (page.loads == [])
