"""Where a model runs: torch runs those of this program, ONNX Runtime others, and each has GPUs of its own."""

from pathlib import Path

import torch

from facegm.embedding.device import chosen_device
from facegm.embedding.model_file import embedder_file
from facegm.embedding.onnx_file import is_onnx
from facegm.embedding.onnx_network import onnx_device


def device_of_model(model: Path, asked: str | torch.device) -> torch.device:
    """The device that is asked for; with "auto" a GPU where whatever runs the model has one, else the CPU.

    Args:
        model: run folder or file of the embedder.
        asked: auto, cpu, cuda, cuda:N or mps.

    Raises:
        FacegmError: no such model, no such device, or there is none here.
    """
    return onnx_device(asked) if is_onnx(embedder_file(model)) else chosen_device(asked)
