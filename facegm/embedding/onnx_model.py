"""The description in an ONNX model's metadata: with it, a file needs nothing else to embed a photo."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from facegm import __version__
from facegm.align.face import FACE_SIZE, TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.embedding_network import ALIGNMENT
from facegm.embedding.onnx_file import KEY, OnnxFile
from facegm.embedding.onnx_network import InputSide, OnnxNetwork
from facegm.embedding.onnx_preprocessing import INSIGHTFACE, OnnxPreprocessing, parse_preprocessing
from facegm.errors import FacegmError
from facegm.models.face_network import ARCHITECTURES, FaceModelConfig, network_class

FORMAT = 1


def load_onnx(
    file: OnnxFile, *, preprocessing: OnnxPreprocessing | str | None = None, device: torch.device | str = "cpu"
) -> OnnxNetwork:
    """An ONNX model that can embed: one with a description, or any with its preprocessing.

    Args:
        file: the model.
        preprocessing: of a model without a description: settings, or what `parse_preprocessing` reads.
        device: where it is to run.

    Raises:
        FacegmError: a description is missing, damaged, of another graph or of a version to come; it is there, and
            preprocessing is given beside it; or the model does not make embeddings of images.
    """
    description = file.description
    if description is None and preprocessing is None:
        raise FacegmError(
            f"{file.path}: does not say how faces are prepared for it; write that into it by `facegm export "
            f'{file.path} --preprocessing insightface --output NEW`, or load it with preprocessing="insightface"'
        )
    if description is None:
        seen = _outside_preprocessing(file, preprocessing)
        return OnnxNetwork(file, InputSide(crops=seen, pixels=seen), _outside_label(file), device=device)
    if preprocessing is not None:
        raise FacegmError(f"{file.path}: says itself how faces are prepared for it; leave the preprocessing out")
    try:
        return _described_network(file, description, device)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FacegmError(f"{file.path}: this facegm cannot use its description under `{KEY}` ({error})") from error


def exported_network(file: OnnxFile, description: Mapping[str, Any], contract: EmbeddingContract) -> OnnxNetwork:
    """A network of this program that was exported to ONNX.

    Args:
        file: what `facegm.embedding.onnx_graph` made, with or without a description.
        description: that of the embedder it was made of.
        contract: of that embedder: embeddings of both may be compared.

    Raises:
        FacegmError: ONNX Runtime cannot run it.
        KeyError, TypeError, ValueError: the description is something else.
    """
    return _exported(file, description, contract, "cpu")


def description_of(network: OnnxNetwork) -> dict[str, Any]:
    """What an ONNX file must say of its model, for this program and for those of other languages."""
    seen = network.side.pixels
    name, output = network.names
    if network.side.adds_mirror:
        mirror = "the graph adds up the embeddings of face and mirror image"
    else:
        mirror = "to be added: f(face) + f(mirrored face)" if seen.mirror else "none"
    return {
        "format": FORMAT,
        "facegm": __version__,
        "graph": network.file.digest,
        "contract": network.contract.to_json(),
        "alignment": ALIGNMENT,
        "preprocessing": asdict(network.side.crops),
        "input": {
            "name": name,
            "shape": ["batch", 3, seen.size, seen.size]
            if seen.layout == "nchw"
            else ["batch", seen.size, seen.size, 3],
            "color": seen.color.upper(),
            "pixels": "0 to 255, as they are: what scaling there is, the graph does"
            if (seen.mean, seen.scale) == (0, 1)
            else f"(pixel - {seen.mean}) / {seen.scale}, of 0 to 255",
            "landmarks": landmarks_in(network.side.crops).round(4).tolist(),
            "landmarks_are": "left eye, right eye, nose, left and right mouth corner as (x, y), where (0, 0) is the "
            "centre of the first pixel: a similarity transform brings a photo's landmarks nearest to them",
        },
        "output": {
            "name": output,
            "dim": network.dim,
            "mirror": mirror,
            "compare": "by the L2 distance (not squared) of embeddings scaled to unit L2 norm, which they do not have",
        },
    }


def means_to_json(means: Float[np.ndarray, "identities dim"]) -> dict[str, Any]:
    """The class means of a likelihood, for a description: their float32 numbers in base64."""
    numbers = np.ascontiguousarray(means, "<f4")
    return {"means": base64.b64encode(numbers.tobytes()).decode(), "shape": [*numbers.shape]}


def means_from_json(found: Mapping[str, Any]) -> Float[Tensor, "identities dim"] | None:
    """Read what `means_to_json` gives; None where there are none.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    if "means" not in found:
        return None
    means = np.frombuffer(base64.b64decode(found["means"], validate=True), "<f4").reshape(found["shape"])
    if means.ndim != 2 or not np.isfinite(means).all():
        raise ValueError(f"class means of shape {list(means.shape)}, or not finite")
    return torch.from_numpy(means.astype(np.float32))


def weights_of_onnx(file: OnnxFile) -> str:
    """By what the contract of a model's embeddings knows its weights.

    Raises:
        FacegmError: its description is damaged.
    """
    description = file.description
    try:
        return file.digest if description is None else EmbeddingContract.from_json(description["contract"]).weights
    except (KeyError, TypeError, ValueError) as error:
        raise FacegmError(f"{file.path}: this facegm cannot use its description under `{KEY}` ({error})") from error


def landmarks_in(crops: Preprocessing | OnnxPreprocessing) -> Float[np.ndarray, "5 2"]:
    """Where the template's landmarks lie in a network's input, as (x, y) in pixels, whose centres lie at integers."""
    if isinstance(crops, OnnxPreprocessing):
        return TEMPLATE * (crops.size / FACE_SIZE)
    resized = (TEMPLATE + 0.5) * (crops.face_size / FACE_SIZE) - 0.5
    return np.asarray(resized - crops.slack // 2)


def _described_network(file: OnnxFile, description: Mapping[str, Any], device: torch.device | str) -> OnnxNetwork:
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']}, this facegm reads {FORMAT}")
    if description["graph"] != file.digest:
        raise ValueError("the graph is damaged, or another than was described: export it anew")
    if {name: description["alignment"].get(name) for name in ALIGNMENT} != ALIGNMENT:
        raise ValueError("trained on faces of another alignment template than this facegm's")
    contract = EmbeddingContract.from_json(description["contract"])
    if "architecture" in description:
        network = _exported(file, description, contract, device)
    else:
        seen = OnnxPreprocessing.from_json(description["preprocessing"])
        side = InputSide(crops=seen, pixels=seen)
        network = OnnxNetwork(file, side, _outside_label(file), device=device, contract=contract)
    if network.dim != contract.dim:
        raise ValueError(f"embeddings of {network.dim} dimensions, described as {contract.dim}")
    return network


def _exported(
    file: OnnxFile, description: Mapping[str, Any], contract: EmbeddingContract, device: torch.device | str
) -> OnnxNetwork:
    crops = Preprocessing(**description["preprocessing"])
    pixels = OnnxPreprocessing(size=crops.crop_size, mean=0.0, scale=1.0)
    model = FaceModelConfig(**description["model"] | {"name": ARCHITECTURES[description["architecture"]]})
    side = InputSide(crops=crops, pixels=pixels, adds_mirror=crops.mirror)
    return OnnxNetwork(file, side, f"{network_class(model).label} as ONNX", device=device, contract=contract)


def _outside_preprocessing(file: OnnxFile, asked: OnnxPreprocessing | str | None) -> OnnxPreprocessing:
    """What is asked for; of the preset, as insightface reads it, a graph that begins with Sub scales pixels itself."""
    if isinstance(asked, OnnxPreprocessing):
        return asked
    assert asked is not None, "asked for where there is no description"
    graph = file.model.graph
    images = {one.name for one in graph.input} - {one.name for one in graph.initializer}
    first = next((node.op_type for node in graph.node if images.intersection(node.input)), "")
    if asked == INSIGHTFACE and first == "Sub":
        return OnnxPreprocessing(mean=0.0, scale=1.0)
    return parse_preprocessing(asked)


def _outside_label(file: OnnxFile) -> str:
    return f"ONNX model {file.digest[:8]}"
