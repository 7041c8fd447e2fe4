"""The exported embedder: a safetensors file whose metadata says how faces must be prepared for it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.data.weights import digest_of, read_description, read_weights, write_weights
from facegm.embedding.calibration import Calibration
from facegm.embedding.onnx_file import OnnxFile, is_onnx
from facegm.embedding.onnx_model import load_onnx, weights_of_onnx
from facegm.errors import FacegmError
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import ARCHITECTURES, FaceModelConfig, build_face_network, network_class

FORMAT = 1
MODEL_FILE = "embedder.safetensors"
"""Name of the exported embedder in a run folder."""


def embedder_file(model: Path) -> Path:
    """The file of a model, which may be named by its run folder.

    Raises:
        FacegmError: the folder has none.
    """
    if not model.is_dir():
        return model
    if not (model / MODEL_FILE).is_file():
        raise FacegmError(f"{model}: no {MODEL_FILE} here; is it a run folder, and is the run at its end?")
    return model / MODEL_FILE


def weights_digest(model: Path) -> str:
    """SHA-256 of a model's weights, whatever else its file says of it; see `facegm.data.weights.digest_of`.

    That of an exported ONNX model is the network's that it was exported from; of another program's, the graph's.

    Args:
        model: run folder, embedder file or ONNX model.

    Raises:
        FacegmError: the file is missing or damaged.
    """
    file = embedder_file(model)
    return weights_of_onnx(OnnxFile.read(file)) if is_onnx(file) else digest_of(read_weights(file).tensors)


def save_embedder(
    path: Path,
    network: FaceNetwork,
    model: FaceModelConfig,
    preprocessing: Preprocessing,
    alignment: dict[str, Any],
) -> None:
    """Export a trained network with all that is needed to use it on a photo.

    Args:
        path: the file to write.
        network: the trained network.
        model: which it is, and its shape.
        preprocessing: from aligned faces to its input.
        alignment: how the faces it was trained with were found and aligned: the settings of their store.
    """
    description = {
        "format": FORMAT,
        "architecture": network_class(model).__name__,
        "model": asdict(model),
        "preprocessing": asdict(preprocessing),
        "pixels": {"color": "RGB", "center": PIXEL_CENTER, "scale": PIXEL_SCALE},
        "alignment": alignment,
    }
    write_weights(path, network.state_dict(), description)


def load_embedder(path: Path) -> tuple[FaceNetwork, Preprocessing, dict[str, Any]]:
    """Read an exported embedder.

    Returns:
        The network in evaluation mode on the CPU, its preprocessing, and the alignment settings of its training faces.

    Raises:
        FacegmError: no such file, not an embedder of this program, or made for other pixels or another network.
    """
    if not path.is_file():
        raise FacegmError(f"{path}: no such model file; `facegm train` writes one at the end of a run")
    tensors, metadata = read_weights(path)
    if metadata is None:
        raise FacegmError(f"{path}: a safetensors file, but not a facegm embedder")
    try:
        description = json.loads(metadata)
        name = ARCHITECTURES.get(description["architecture"])
        if description["format"] != FORMAT or name is None:
            raise ValueError(f"format {description['format']} of {description['architecture']}")
        if description["pixels"] != {"color": "RGB", "center": PIXEL_CENTER, "scale": PIXEL_SCALE}:
            raise ValueError(f"pixels {description['pixels']}")
        preprocessing = Preprocessing(**description["preprocessing"])
        model = FaceModelConfig(**description["model"] | {"name": name})  # before there were names it had none
        network = build_face_network(model, preprocessing.crop_size)
        network.load_state_dict(tensors)
        alignment = dict(description["alignment"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FacegmError(f"{path}: this facegm cannot use the embedder ({error})") from error
    unsound = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if unsound:
        raise FacegmError(f"{path}: weights that are not finite in {', '.join(unsound[:3])}")
    return network.eval(), preprocessing, alignment


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Put a calibration into an exported embedder, in place of one that it has; its weights stay as they are.

    Args:
        path: the file, which is replaced at once or not at all.
        calibration: measured with that very embedder.

    Raises:
        FacegmError: no such file, or not an embedder of this program, or an ONNX model without a description.
    """
    if is_onnx(path):
        file = OnnxFile.read(path)
        load_onnx(file)
        file.described((file.description or {}) | {"calibration": calibration.to_json()}).write(path)
        return
    load_embedder(path)
    tensors, metadata = read_weights(path)
    description = json.loads(metadata or "")
    write_weights(path, tensors, description | {"calibration": calibration.to_json()})


def read_calibration(path: Path) -> Calibration | None:
    """The calibration of an exported embedder; None where it has not been calibrated.

    Raises:
        FacegmError: the file is damaged, not an embedder, or has a calibration that this program cannot use.
    """
    try:
        found = _description(path).get("calibration")
        return None if found is None else Calibration.from_json(found)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FacegmError(f"{path}: this facegm cannot use the embedder's calibration ({error})") from error


def _description(path: Path) -> dict[str, Any]:
    """What the file of an embedder says of it; nothing, of an ONNX model of another program.

    Raises:
        FacegmError: the file is damaged.
        TypeError, ValueError: it is another program's.
    """
    if is_onnx(path):
        return OnnxFile.read(path).description or {}
    return dict(json.loads(read_description(path) or ""))
