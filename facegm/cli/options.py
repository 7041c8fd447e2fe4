"""Options that several commands share."""

import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facegm.data.machine import default_workers

GALLERY_ADDRESS = "a file, or milvus+http://HOST:19530/COLLECTION"
"""What `facegm.gallery.engines` takes for a gallery, in a command's help."""


def add_workers(options: ArgumentParser) -> None:
    """Add `--workers` to a command that aligns."""
    options.add_argument(
        "--workers",
        type=whole_number(minimum=1),
        help="worker processes (default: as many as this machine has cores and memory for, "
        f"{default_workers()}; on GPUs a few each)",
    )


def add_engine(options: ArgumentParser) -> None:
    """Add `--engine`, of whose processes photos are looked at."""
    options.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="worker processes of this machine (default), or of a Ray cluster (extra facegm[ray])",
    )


def add_model(options: ArgumentParser) -> None:
    """Add `--model`."""
    options.add_argument("--model", type=Path, required=True, help="run folder, embedder.safetensors or model.onnx")


def add_device(options: ArgumentParser) -> None:
    """Add `--device`."""
    options.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where the network runs (default: a GPU where there is one)",
    )


def add_gallery(options: ArgumentParser, *, required: bool, what: str) -> None:
    """Add `--gallery`, an address as `facegm.gallery.engines` has it, and `--index`."""
    options.add_argument("--gallery", required=required, metavar="ADDRESS", help=f"{what}: {GALLERY_ADDRESS}")
    options.add_argument(
        "--index",
        choices=("exact", "faiss-flat", "faiss-sq8"),
        default="exact",
        help="what searches a gallery that is a file: numpy (default) or, for many faces, FAISS; faiss-sq8 takes a "
        "quarter of the memory and says how much it fails to find. A cluster searches by itself",
    )


def add_json(options: ArgumentParser) -> None:
    """Add `--json`; `facegm.cli.main` has a command with it log to the standard error."""
    options.add_argument(
        "--json", action="store_true", help="print one JSON object, and nothing else, on the standard output"
    )


def print_json(numbers: Mapping[str, Any]) -> None:
    """Print what a command with `--json` found.

    Raises:
        ValueError: a number is not finite.
    """
    print(json.dumps(numbers, ensure_ascii=False, allow_nan=False))


def whole_number(*, minimum: int) -> Callable[[str], int]:
    """A parser's type for whole numbers from `minimum` on."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < minimum:
            raise ArgumentTypeError(f"{text}, must be a whole number, at least {minimum}")
        return int(text)

    return parse


def real_number(must_be: str, is_allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """A parser's type for numbers, and what they must be in words."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not is_allowed(number):  # as NaN is by no comparison
            raise ArgumentTypeError(f"{text}, must be a number {must_be}")
        return number

    return parse
