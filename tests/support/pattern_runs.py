"""Small classifiers of noisy patterns, trained by the command in a few seconds, as users' runs are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import write_idx

from facegm.cli import main


def patterns(count: int, seed: int, *, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy grey images of 28x28 of a smooth pattern a class, and their labels."""
    means = np.random.default_rng(0).uniform(0, 255, (classes, 4, 4))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    images = np.stack([cv2.resize(means[label], (28, 28), interpolation=cv2.INTER_CUBIC) for label in labels])
    return np.clip(images + rng.normal(0, 50, images.shape), 0, 255).astype(np.uint8), labels


@contextmanager
def shallow_networks() -> Iterator[None]:
    """Within, ResNet-20 has eight layers, one block a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facegm.models.image_network.CIFAR_DEPTHS", {"resnet20": 8})
        yield


def train_small(config: str, run: Path, options: Sequence[str]) -> None:
    """Train a ResNet-20 on the CPU, in single precision, to the end."""
    shared = ["--train.compile=false", "--train.precision=float32", "--model.name=resnet20", "--data.workers=0"]
    shared.append("--model.feature_relu=false")
    assert main(["train", "--config", config, "--output", str(run), *shared, *options]) == 0


def train_on_patterns(folder: Path, *options: str, classes: int, train: int, test: int) -> Path:
    """The run folder of a classifier of patterns.

    Args:
        folder: for its data and the run.
        options: of `facegm train`.
        classes: how many.
        train: images to train on.
        test: images to evaluate on, which are `patterns(test, 2, classes=classes)`.
    """
    for part, count, seed in (("train", train, 1), ("t10k", test, 2)):
        write_idx(folder / "data", part, *patterns(count, seed, classes=classes))
    usual = [f"--data.folder={folder / 'data'}", "--train.epochs=3", "--optimizer.learning_rate=0.03"]
    train_small("mnist.yaml", folder / "run", [*usual, *options])
    return folder / "run"
