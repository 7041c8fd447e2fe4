"""Files of trained weights: safetensors, whose metadata describe what the weights are of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from facegm.data.files import replace_atomically
from facegm.errors import FacegmError

_KEY = "facegm"


class Weights(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    description: str | None
    """JSON; None in a file of another program."""


def write_weights(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights, from whatever device, with their description; the file appears whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace_atomically(path, save(on_cpu, metadata={_KEY: json.dumps(description)}))


def read_weights(path: Path) -> Weights:
    """Read weights into the CPU's memory.

    Raises:
        FacegmError: the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return Weights(tensors, (file.metadata() or {}).get(_KEY))
    except (SafetensorError, OSError) as error:
        raise FacegmError(f"{path}: damaged or not a safetensors file ({error})") from error


def read_tensor(path: Path, name: str) -> Tensor | None:
    """Read one tensor into the CPU's memory; None where the file has none of the name.

    Raises:
        FacegmError: the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise FacegmError(f"{path}: damaged or not a safetensors file ({error})") from error


def read_description(path: Path) -> str | None:
    """Read the description of weights (JSON) without them; None in a file of another program.

    Raises:
        FacegmError: the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_KEY)
    except (SafetensorError, OSError) as error:
        raise FacegmError(f"{path}: damaged or not a safetensors file ({error})") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {content.dtype} {tuple(content.shape)} ".encode())
        digest.update(content.numpy().data)
    return digest.hexdigest()
