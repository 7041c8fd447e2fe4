"""Fig. 1: the features that are drawn are the network's, the density and the attack are what their formulas say."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from facegm.adversarial.chance import generators_of
from facegm.adversarial.detectors.kernels import likeliest_bandwidth
from facegm.adversarial.objectives import random_other_classes
from facegm.classification.classifier import Description, ImageClassifier
from facegm.classification.data import LabelledImages
from facegm.classification.preprocessing import ImagePreprocessing
from facegm.data.resident_images import PaddedCrop, ResidentImages
from facegm.losses.center import CenterLoss
from facegm.losses.config import LossConfig, LossName
from facegm.models.image_network import ImageModelConfig
from facegm.reproduce.embedding_figure import COLORS, draw_embeddings
from facegm.reproduce.embeddings import DensityPanel, Panel, density_panel, embedding_panel

CPU = torch.device("cpu")
MEAN, STD = 0.13, 0.31
BANDWIDTH = 0.7


def classifier_of(loss: LossName = "gm", classes: int = 4) -> ImageClassifier:
    torch.manual_seed(1)
    description = Description(
        model=ImageModelConfig(name="lenet_plus_plus", feature_dim=2, feature_relu=False),
        loss=LossConfig(name=loss),
        preprocessing=ImagePreprocessing(mean=[MEAN], std=[STD]),
        classes=tuple("abcdefgh"[:classes]),
        channels=1,
        side=28,
    )
    return ImageClassifier(description).eval()


def images_of(pixels: np.ndarray, labels: np.ndarray, classes: int = 4) -> LabelledImages:
    """With an augmentation that would show in the features."""
    crop = PaddedCrop(side=28, padding=4, mirror=True)
    samples = ResidentImages(pixels, labels, classes=classes, crop=crop)
    return LabelledImages(samples, tuple("abcdefgh"[:classes]), 1, 28, crop)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def features_by_hand(classifier: ImageClassifier, pixels: np.ndarray) -> Tensor:
    inputs = torch.from_numpy((pixels[..., 0] / 255.0 - MEAN) / STD).float()[:, None]
    with torch.no_grad():
        features: Tensor = classifier.network(inputs)
    return features


def test_images_are_embedded_as_they_are_and_evenly_spaced() -> None:
    classifier, pixels = classifier_of(), noise(503)  # more than one batch
    labels = np.random.default_rng(1).integers(0, 4, 503)
    every = embedding_panel("t", classifier, images_of(pixels, labels), 60_000, CPU)
    features = features_by_hand(classifier, pixels)
    torch.testing.assert_close(every.features, features, rtol=1e-4, atol=1e-5)
    assert every.labels.tolist() == labels.tolist()
    some = embedding_panel("t", classifier, images_of(pixels, labels), 3, CPU)
    assert some.labels.tolist() == labels[[0, 251, 502]].tolist()
    torch.testing.assert_close(some.features, features[[0, 251, 502]], rtol=1e-4, atol=1e-5)


def test_features_and_attacks_are_in_full_precision() -> None:
    """Protects from TF32, by which a GPU's figure would be another than a CPU's."""
    classifier, seen = classifier_of(), []
    classifier.network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    pixels = noise(8)
    predicted = torch.cdist(features_by_hand(classifier, pixels), classifier.state_dict()["loss.means"]).argmin(dim=1)
    images, before = images_of(pixels, predicted.numpy()), torch.backends.cudnn.allow_tf32
    seen.clear()
    features = embedding_panel("t", classifier, images, 8, CPU).features
    density_panel("t", classifier, features, images, 8, CPU)
    assert seen == [False] * 5  # both panels', the attack and whether it is one, and what it has made
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("loss", "vectors", "are_points"),
    [("gm", "means", True), ("center", "centers", True), ("softmax", "weight", False), ("l_softmax", "weight", False)],
)
def test_a_panel_has_the_class_vectors_of_its_loss(loss: LossName, vectors: str, are_points: bool) -> None:
    classifier = classifier_of(loss)
    if loss == "center":
        assert isinstance(classifier.loss, CenterLoss)
        classifier.loss.centers.copy_(torch.randn(4, 2))
    panel = embedding_panel("t", classifier, images_of(noise(4), np.arange(4)), 4, CPU)
    assert torch.equal(panel.class_vectors, classifier.state_dict()[f"loss.{vectors}"])
    assert panel.are_points is are_points
    assert panel.classes == ("a", "b", "c", "d")


def attacked_by_hand(classifier: ImageClassifier, image: Tensor, target: int) -> Tensor:
    """By one step of FGSM, from pixels of 0 to 1."""
    image = image.clone().requires_grad_()
    features = classifier.network((image[None] - MEAN) / STD)
    distances = torch.stack([(features - mean).square().sum() / 2 for mean in classifier.state_dict()["loss.means"]])
    (distances[target] + torch.logsumexp(-distances, dim=0)).backward()
    assert image.grad is not None
    return (image.detach() - 0.1 * image.grad.sign()).clamp(0, 1)


def test_the_images_that_are_attacked_were_classified_right() -> None:
    classifier, pixels = classifier_of(), noise(40)
    features = features_by_hand(classifier, pixels)
    means = classifier.state_dict()["loss.means"]
    predicted = torch.cdist(features, means).argmin(dim=1)
    labels = torch.where(torch.arange(40) % 4 == 0, (predicted + 1) % 4, predicted)
    panel = density_panel("t", classifier, features, images_of(pixels, labels.numpy()), 40, CPU)
    is_right = labels == predicted
    torch.testing.assert_close(panel.clean, features[is_right], rtol=1e-4, atol=1e-5)
    targets = random_other_classes(labels, 4, generators_of(torch.arange(40), 0))
    images = torch.from_numpy(pixels[..., 0] / 255.0).float()[:, None]
    pairs = zip(images[is_right], targets[is_right].tolist(), strict=True)
    attacked = torch.stack([attacked_by_hand(classifier, image, target) for image, target in pairs])
    expected = features_by_hand(classifier, attacked.numpy().transpose(0, 2, 3, 1) * 255.0)
    torch.testing.assert_close(panel.adversarial, expected, rtol=1e-3, atol=1e-4)
    assert panel.bandwidth == likeliest_bandwidth([features])


def panels() -> tuple[list[Panel], DensityPanel]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (90,), generator=rng)
    made = [
        Panel(
            title=f"loss {number}, 1.{number} %",
            features=torch.randn(90, 2, generator=rng) * (1 + number),
            labels=labels,
            class_vectors=torch.randn(4, 2, generator=rng),
            are_points=number > 1,
            classes="abcd",
        )
        for number in range(3)
    ]
    training = made[2].features
    clean, adversarial = training[:20] * 0.5, torch.randn(21, 2, generator=rng) + torch.tensor([9.0, 0.0])
    density = DensityPanel(
        title="density", training=training, clean=clean, adversarial=adversarial, bandwidth=BANDWIDTH
    )
    return made, density


def test_the_figure_shows_the_points_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    made, density = panels()
    for name in ("a.png", "b.png"):
        draw_embeddings(tmp_path / name, made, density)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    axes: list[Any] = figures[0].axes
    titles = [f"({letter}) {title}" for letter, title in zip("abc", [p.title for p in made], strict=True)]
    assert [a.get_title() for a in axes[:4]] == [*titles, "(d) density"]
    for a, panel in zip(axes, made, strict=False):
        dots = a.collections[0]
        np.testing.assert_allclose(dots.get_offsets(), panel.features, rtol=1e-6)
        expected = [to_rgba(COLORS[label], alpha=0.6) for label in panel.labels.tolist()]
        np.testing.assert_allclose(dots.get_facecolors(), expected)
        assert [text.get_text() for text in a.texts] == list("abcd")
        if panel.are_points:
            np.testing.assert_allclose(a.collections[1].get_offsets(), panel.class_vectors, rtol=1e-6)
        else:
            for line, (x, y) in zip(a.lines, panel.class_vectors.tolist(), strict=True):
                assert line.get_xydata()[0].tolist() == [0, 0]
                end = line.get_xydata()[1]
                assert math.atan2(end[1], end[0]) == pytest.approx(math.atan2(y, x), abs=1e-6)
    _check_density(axes[3], density)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()][:4] == list("abcd")


def _check_density(axes: Any, density: DensityPanel) -> None:
    def naive(x: float, y: float) -> float:
        variance = BANDWIDTH**2
        kernels = [math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * variance)) for a, b in density.training.tolist()]
        return math.log(sum(kernels) / len(kernels) / (2 * math.pi * variance))

    np.testing.assert_allclose(axes.collections[0].get_offsets(), density.adversarial, rtol=1e-6)
    image = axes.images[0]
    values, (left, right, bottom, top) = image.get_array(), image.get_extent()
    rows, columns = values.shape
    for row, column in ((0, 0), (10, 130), (80, 80), (rows - 1, 3)):
        x = left + (column + 0.5) * (right - left) / columns
        y = bottom + (row + 0.5) * (top - bottom) / rows  # the first row is the lowest
        assert values[row, column] == pytest.approx(naive(x, y), rel=1e-6)
    assert image.origin == "lower"
    for points in (density.training, density.clean, density.adversarial):
        assert (points[:, 0] > left).all()
        assert (points[:, 0] < right).all()
        assert (points[:, 1] > bottom).all()
        assert (points[:, 1] < top).all()
    clean = np.median([naive(*point) for point in density.clean.tolist()])
    adversarial = np.median([naive(*point) for point in density.adversarial.tolist()])
    expected = f"test images {clean:.2f}, by FGSM (dots) {adversarial:.2f}"
    assert expected.replace("-", "\N{MINUS SIGN}") in axes.get_xlabel()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    made, density = panels()
    flat = Panel(
        title="100-D",
        features=torch.zeros(3, 100),
        labels=torch.zeros(3, dtype=torch.int64),
        class_vectors=torch.zeros(2, 100),
        are_points=True,
        classes="ab",
    )
    with pytest.raises(ValueError, match="100-D: features of 100 dimensions"):
        draw_embeddings(tmp_path / "a.png", [*made, flat], density)
