"""Fetching the paper's small data sets, where the user asks for it; nothing else touches the network."""

from http.client import HTTPException
from pathlib import Path
from typing import Literal

from facegm.errors import FacegmError

_CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""What torchvision calls them."""
_CIFAR = "unpack {} from https://www.cs.toronto.edu/~kriz/cifar.html there"
_BY_HAND = {
    "mnist": "lay train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz there",
    "cifar10": _CIFAR.format("cifar-10-binary.tar.gz or cifar-10-python.tar.gz"),
    "cifar100": _CIFAR.format("cifar-100-binary.tar.gz or cifar-100-python.tar.gz"),
}


def download(name: Literal["mnist", "cifar10", "cifar100"], folder: Path) -> None:
    """Have torchvision download a data set, and check it; what is there already and whole is left as it is.

    Args:
        name: which set.
        folder: where it shall lie; `read_mnist` and `read_cifar` find it there. It is made where it is missing.

    Raises:
        FacegmError: the set cannot be had, or not be written; it says what to place where by hand.
    """
    from torchvision import datasets

    try:
        for is_train in (True, False):
            getattr(datasets, _CLASSES[name])(folder, train=is_train, download=True)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FacegmError(f"{folder}: cannot download {name} ({reason}); {_BY_HAND[name]} by hand") from error
