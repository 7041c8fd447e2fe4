"""Protects the download of data sets: what torchvision lays down is found, and no failure leaves the user alone."""

import gzip
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from facegm.classification.download import download
from facegm.data.readers.arrays import Part
from facegm.data.readers.cifar import read_cifar
from facegm.data.readers.idx import read_mnist
from facegm.errors import FacegmError

Name = Literal["mnist", "cifar10", "cifar100"]
NAMES: tuple[Name, ...] = get_args(Name)
MNIST, CIFAR10, CIFAR100 = datasets.MNIST, datasets.CIFAR10, datasets.CIFAR100
"""As they are before a test puts something in their place."""
CLASSES = {"mnist": MNIST, "cifar10": CIFAR10, "cifar100": CIFAR100}
PARTS: tuple[Part, ...] = ("train", "test")


def _write_mnist(folder: Path) -> None:
    """Where torchvision's own class says, packed and unpacked as it leaves them."""
    own = MNIST.__new__(MNIST)
    own.root = folder
    raw = Path(own.raw_folder)
    raw.mkdir(parents=True)
    contents = [struct.pack(">4B3I", 0, 0, 8, 3, 2, 1, 1) + b"\x07\x08", struct.pack(">4BI", 0, 0, 8, 1, 2) + b"\x01\0"]
    for (name, _), content in zip(MNIST.resources, contents * 2, strict=True):
        (raw / name).write_bytes(gzip.compress(content))
        (raw / Path(name).stem).write_bytes(content)


def _write_cifar(own: Any, folder: Path) -> None:
    place = folder / own.base_folder
    place.mkdir(parents=True)
    labels = "labels" if own is CIFAR10 else "fine_labels"
    batch = {labels: [1, 2], "data": np.arange(6144).reshape(2, 3072).astype(np.uint8)}
    for name, _ in own.train_list + own.test_list:
        (place / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [f"class {number}" for number in range(10 if own is CIFAR10 else 100)]
    (place / own.meta["filename"]).write_bytes(pickle.dumps({own.meta["key"]: names}, protocol=2))


WRITERS: dict[Name, Callable[[Path], None]] = {
    "mnist": _write_mnist,
    "cifar10": lambda folder: _write_cifar(CIFAR10, folder),
    "cifar100": lambda folder: _write_cifar(CIFAR100, folder),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_was_downloaded_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name) -> None:
    asked: list[bool] = []

    def make(root: Path, *, train: bool, download: bool) -> None:
        assert download
        if not asked:
            WRITERS[name](Path(root))
        asked.append(train)

    monkeypatch.setattr(datasets, CLASSES[name].__name__, make)
    download(name, tmp_path / "new")
    assert sorted(asked) == [False, True]
    for part in PARTS:
        if name == "mnist":
            read = read_mnist(tmp_path / "new", part)
            assert (read.images[:, 0, 0, 0].tolist(), read.labels.tolist()) == ([7, 8], [1, 0])
        else:
            read = read_cifar(tmp_path / "new", name, part)
            assert read.labels.tolist()[:2] == [1, 2]
            assert read.images[0, 0, 0].tolist() == [0, 1024 % 256, 2048 % 256]
            assert read.images[0, 0, 1].tolist() == [1, 1, 1]
            assert read.classes[:2] == ("class 0", "class 1")


@pytest.mark.parametrize(
    "failure",
    [
        URLError("no route to host"),
        RuntimeError("Error downloading it:\nTried there, got:\nnothing"),
        ConnectionResetError("reset by peer"),
        PermissionError(13, "Permission denied"),
        IncompleteRead(b"half"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_failure_says_what_to_place_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name, failure: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(datasets, CLASSES[name].__name__, fail)
    with pytest.raises(FacegmError) as caught:
        download(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: cannot download {name} ({type(failure).__name__}: ")
    published = [file for file, _ in MNIST.resources] if name == "mnist" else [CLASSES[name].filename]
    assert all(file in message for file in published)
    assert "\n" not in message


def test_torchvision_is_loaded_only_where_it_downloads() -> None:
    script = "import sys, facegm.classification.download; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
