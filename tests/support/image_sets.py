"""Small sets of images in the layouts in which MNIST, CIFAR and folders of photos are published."""

import gzip
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MNIST_PREFIX = {"train": "train", "test": "t10k"}


def pictures(labels: Sequence[int], side: int, channels: int, seed: int = 0) -> np.ndarray:
    """A noisy pattern for each label, the same for all of one class: uint8, [images, side, side, channels]."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).uniform(30, 225, (100, 4, 4, channels))
    blown_up = np.kron(patterns[np.asarray(labels)], np.ones((1, -(-side // 4), -(-side // 4), 1)))
    noisy = blown_up[:, :side, :side] + rng.normal(0, 15, (len(labels), side, side, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def alternating(images: int, classes: int) -> list[int]:
    """Labels 0, 1, ... again and again."""
    return [number % classes for number in range(images)]


def idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file holds it."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: Sequence[int], test: Sequence[int], *, suffix: str = ".gz") -> None:
    """Digits with these labels: those of `pictures`, of seed 0 to train on and of seed 1 to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, labels) in enumerate({"train": train, "test": test}.items()):
        files = {"images-idx3": pictures(labels, 28, 1, seed)[..., 0], "labels-idx1": np.array(labels)}
        for name, array in files.items():
            content = gzip.compress(idx(array)) if suffix else idx(array)
            (folder / f"{MNIST_PREFIX[part]}-{name}-ubyte{suffix}").write_bytes(content)


def _records(labels: Sequence[int], seed: int) -> np.ndarray:
    """The red, the green and the blue plane of each picture, row by row: [images, 3072]."""
    return pictures(labels, 32, 3, seed).transpose(0, 3, 1, 2).reshape(len(labels), -1)


def write_cifar10(folder: Path, train: Sequence[int], test: Sequence[int], *, layout: str = "bin") -> None:
    """CIFAR-10 with these labels, in the binary layout (`bin`) or the Python one (`py`), as its archive unpacks to."""
    folder = folder / f"cifar-10-batches-{layout}"
    folder.mkdir(parents=True)
    all_labels, pixels = np.array(train), _records(train, 0)
    parts = np.array_split(np.arange(len(train)), 5)
    batches = {f"data_batch_{n}": (all_labels[part], pixels[part]) for n, part in enumerate(parts, start=1)}
    batches["test_batch"] = np.array(test), _records(test, 1)
    for name, (labels, rows) in batches.items():
        if layout == "bin":
            content = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1).tobytes()
            (folder / f"{name}.bin").write_bytes(content)
        else:
            entries = {"batch_label": name, "labels": labels.tolist(), "data": rows, "filenames": ["x.png"] * len(rows)}
            (folder / name).write_bytes(pickle.dumps(entries, protocol=2))
    if layout == "bin":
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n")
    else:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10_CLASSES)}, protocol=2))


def write_cifar100(folder: Path, train: Sequence[int], test: Sequence[int], names: Sequence[str] = ()) -> None:
    """CIFAR-100 in the binary layout: a byte for the superclass, here a fifth of the class's number, and the class."""
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for seed, (part, labels) in enumerate({"train": train, "test": test}.items()):
        fine = np.array(labels, np.uint8)[:, None]
        (folder / f"{part}.bin").write_bytes(
            np.concatenate([fine // 5, fine, _records(labels, seed)], axis=1).tobytes()
        )
    if names:
        (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")


def touch_photos(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Empty files class/name, for what looks at names alone."""
    for label, files in names.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / label / file).touch()


def write_photos(folder: Path, counts: Mapping[str, int], *, seed: int = 0, suffix: str = "jpg") -> None:
    """JPEGs of differing sizes as class/0.jpg and so on, by `pictures`; some are grey, as some of ImageNet are."""
    rng = np.random.default_rng(seed)
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(pictures([label] * count, 64, 3, seed)):
            width, height = (int(length) for length in rng.integers(40, 110, 2))
            photo = Image.fromarray(picture).resize((width, height))
            (photo.convert("L") if number % 4 == 3 else photo).save(folder / name / f"{number}.{suffix}", "jpeg")
