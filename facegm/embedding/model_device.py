"""Where a model runs, and by what: torch or OpenVINO run those of this program, ONNX Runtime others."""

from pathlib import Path

import torch

from facegm.data.machine import has_fast_bfloat16
from facegm.embedding.device import chosen_device
from facegm.embedding.engine import takes_openvino
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


def computation(model: Path, device: str, faces: int) -> str:
    """What rounds a model's embeddings: what computes it, where, and in which numbers; those of another differ a bit.

    Args:
        model: run folder or file of the embedder.
        device: type of the device, such as cuda.
        faces: that are going to be embedded.
    """
    if is_onnx(embedder_file(model)):
        return f"ONNX Runtime, {device}"
    engine = "OpenVINO" if takes_openvino(device, faces) else "torch"
    return f"{engine}, {device}, {'bfloat16' if device == 'cpu' and has_fast_bfloat16() else 'float32'}"
