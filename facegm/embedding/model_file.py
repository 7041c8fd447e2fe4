"""The exported embedder: a safetensors file whose metadata says how faces must be prepared for it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from facegm.data.preprocessing import PIXEL_CENTER, PIXEL_SCALE, Preprocessing
from facegm.data.weights import digest_of, read_description, read_tensor, read_weights, write_weights
from facegm.embedding.calibration import Calibration
from facegm.embedding.likelihood import (
    ClassLikelihood,
    LikelihoodThreshold,
    thresholds_from_json,
    thresholds_to_json,
    usual_false_alarm_rate,
)
from facegm.embedding.onnx_file import OnnxFile, is_onnx
from facegm.embedding.onnx_model import load_onnx, means_from_json, weights_of_onnx
from facegm.errors import FacegmError
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import ARCHITECTURES, FaceModelConfig, build_face_network, network_class

FORMAT = 1
MODEL_FILE = "embedder.safetensors"
"""Name of the exported embedder in a run folder."""
_MEANS = "likelihood.means"
"""Name of the tensor of class means, beside those of the network."""


def embedder_file(model: Path) -> Path:
    """The file of a model, which may be named by its run folder.

    Raises:
        FacegmError: there is no such file, or the folder has none.
    """
    if not model.is_dir():
        _require(model)
        return model
    if not (model / MODEL_FILE).is_file():
        raise FacegmError(f"{model}: no {MODEL_FILE} here; is it a run folder, and is the run at its end?")
    return model / MODEL_FILE


def weights_digest(model: Path) -> str:
    """SHA-256 of a model's network, whatever else its file holds; see `facegm.data.weights.digest_of`.

    That of an exported ONNX model is the network's that it was exported from; of another program's, the graph's.

    Args:
        model: run folder, embedder file or ONNX model.

    Raises:
        FacegmError: the file is missing or damaged.
    """
    file = embedder_file(model)
    if is_onnx(file):
        return weights_of_onnx(OnnxFile.read(file))
    tensors = read_weights(file).tensors
    return digest_of({name: tensor for name, tensor in tensors.items() if name != _MEANS})


def save_embedder(
    path: Path,
    network: FaceNetwork,
    model: FaceModelConfig,
    preprocessing: Preprocessing,
    alignment: dict[str, Any],
    means: Float[Tensor, "identities dim"] | None = None,
) -> None:
    """Export a trained network with all that is needed to use it on a photo.

    Args:
        path: the file to write.
        network: the trained network.
        model: which it is, and its shape.
        preprocessing: from aligned faces to its input.
        alignment: how the faces it was trained with were found and aligned: the settings of their store.
        means: of the training identities under the GM loss; None where there are none.
    """
    description = {
        "format": FORMAT,
        "architecture": network_class(model).__name__,
        "model": asdict(model),
        "preprocessing": asdict(preprocessing),
        "pixels": {"color": "RGB", "center": PIXEL_CENTER, "scale": PIXEL_SCALE},
        "alignment": alignment,
    }
    write_weights(path, network.state_dict() | ({} if means is None else {_MEANS: means}), description)


def load_embedder(path: Path) -> tuple[FaceNetwork, Preprocessing, dict[str, Any]]:
    """Read an exported embedder.

    Returns:
        The network in evaluation mode on the CPU, its preprocessing, and the alignment settings of its training faces.

    Raises:
        FacegmError: no such file, not an embedder of this program, or made for other pixels or another network.
    """
    _require(path)
    tensors, metadata = read_weights(path)
    if metadata is None:
        raise FacegmError(f"{path}: a safetensors file, but not a facegm embedder")
    unsound = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    means = tensors.pop(_MEANS, None)
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
        if means is not None and (means.ndim != 2 or not len(means) or means.shape[1] != network.embedding_dim):
            raise ValueError(f"class means of shape {[*means.shape]} to embeddings of {network.embedding_dim}")
        alignment = dict(description["alignment"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FacegmError(f"{path}: this facegm cannot use the embedder ({error})") from error
    if unsound:
        raise FacegmError(f"{path}: weights that are not finite in {', '.join(unsound[:3])}")
    return network.eval(), preprocessing, alignment


def write_calibration(
    path: Path, calibration: Calibration, likelihood_thresholds: Sequence[LikelihoodThreshold] = ()
) -> None:
    """Put a calibration into an exported embedder, in place of one that it has; its weights stay as they are.

    Args:
        path: the file, which is replaced at once or not at all.
        calibration: measured with that very embedder.
        likelihood_thresholds: measured with it too, where it carries class means.

    Raises:
        FacegmError: no such file, or not an embedder of this program, or an ONNX model without a description.
    """
    found = {"calibration": calibration.to_json()}
    thresholds = {"thresholds": thresholds_to_json(likelihood_thresholds)}
    if is_onnx(path):
        file = load_onnx(OnnxFile.read(path)).file
        description = (file.description or {}) | found
        if "likelihood" in description:
            description["likelihood"] |= thresholds
        file.described(description).write(path)
        return
    load_embedder(path)
    tensors, metadata = read_weights(path)
    description = json.loads(metadata or "") | found
    if _MEANS in tensors:
        description["likelihood"] = thresholds
    write_weights(path, tensors, description)


def read_calibration(embedder: Path | OnnxFile) -> Calibration | None:
    """The calibration of an exported embedder; None where it has not been calibrated.

    Args:
        embedder: its file, or an ONNX model that was read from one.

    Raises:
        FacegmError: the file is damaged, not an embedder, or has a calibration that this program cannot use.
    """
    try:
        found = _description(embedder).get("calibration")
        return None if found is None else Calibration.from_json(found)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FacegmError(f"{_path(embedder)}: this facegm cannot use the embedder's calibration ({error})") from error


def read_likelihood(embedder: Path | OnnxFile, false_alarm_rate: float | None = None) -> ClassLikelihood | None:
    """The likelihood that an exported embedder carries; None where it has no class means.

    So it is of other losses than the GM loss, of very many identities, and of earlier versions of facegm.

    Args:
        embedder: its file, or an ONNX model that was read from one.
        false_alarm_rate: at which it is to judge faces; None for the usual one, see `usual_false_alarm_rate`.

    Raises:
        FacegmError: the file is damaged, not an embedder, or has thresholds that this program cannot use; or the rate
            is none that was measured.
    """
    path = _path(embedder)
    try:
        found = _description(embedder).get("likelihood", {})
        means = means_from_json(found) if is_onnx(path) else read_tensor(path, _MEANS)
        thresholds = thresholds_from_json(found.get("thresholds", []))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FacegmError(f"{path}: this facegm cannot use the embedder's likelihood ({error})") from error
    if means is None:
        if false_alarm_rate is not None:
            raise FacegmError(
                f"{path}: carries no class means, by which a face is abnormal at a false-alarm rate; leave the rate "
                "out, or take an embedder that was trained with the GM loss"
            )
        return None
    rate = usual_false_alarm_rate(thresholds) if false_alarm_rate is None else false_alarm_rate
    likelihood = ClassLikelihood(means=means.float().numpy(), thresholds=thresholds, false_alarm_rate=rate)
    if rate is not None:
        likelihood.threshold_at(rate)
    return likelihood


def _require(path: Path) -> None:
    if not path.is_file():
        raise FacegmError(f"{path}: no such model file; `facegm train` writes one at the end of a run")


def _path(embedder: Path | OnnxFile) -> Path:
    return embedder.path if isinstance(embedder, OnnxFile) else embedder


def _description(embedder: Path | OnnxFile) -> dict[str, Any]:
    """What the file of an embedder says of it; nothing, of an ONNX model of another program.

    Raises:
        FacegmError: the file is damaged.
        TypeError, ValueError: it is another program's.
    """
    if isinstance(embedder, Path) and not is_onnx(embedder):
        return dict(json.loads(read_description(embedder) or ""))
    return (OnnxFile.read(embedder) if isinstance(embedder, Path) else embedder).description or {}
