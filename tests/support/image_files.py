"""Small sets of images in the layouts of MNIST and CIFAR, written by tests."""

import struct
from pathlib import Path

import numpy as np


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """MNIST's pair of files, uncompressed; `part` is train or t10k, images are grey, `[images, height, width]`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, numbers in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = struct.pack(f">HBB{kind}I", 0, 8, kind, *numbers.shape)
        (folder / f"{part}-{name}-ubyte").write_bytes(header + numbers.astype(np.uint8).tobytes())


def write_cifar10(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The test file of CIFAR-10's binary layout; images are RGB, `[images, 32, 32, 3]`."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    (folder / "test_batch.bin").write_bytes(np.column_stack([labels, planes]).astype(np.uint8).tobytes())
