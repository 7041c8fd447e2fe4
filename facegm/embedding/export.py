"""An exported embedder as an ONNX file, which is held against it before it gets its name."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from facegm.align.face import FACE_SIZE
from facegm.align.prealigned import open_aligned_faces
from facegm.data.progress import Progress
from facegm.data.weights import read_description
from facegm.embedding.embedding_network import EmbeddingNetwork
from facegm.embedding.likelihood import thresholds_to_json
from facegm.embedding.model_file import read_likelihood
from facegm.embedding.network import embed_crops
from facegm.embedding.onnx_file import OnnxFile, require_runtime
from facegm.embedding.onnx_graph import onnx_model
from facegm.embedding.onnx_model import description_of, exported_network, load_onnx, means_to_json
from facegm.embedding.onnx_network import OnnxNetwork
from facegm.embedding.onnx_preprocessing import OnnxPreprocessing
from facegm.embedding.trained_network import TrainedNetwork
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)
CHECKED = 500
"""Faces that an exported network is held against the original on."""
MOST_BYTES_OF_MEANS = 2**25
"""Of class means, which stand in the metadata: those of 16,384 identities of 512 dimensions."""
BATCHES = (1, 32)
"""How many of them at a time."""
LARGEST_COSINE_DISTANCE, LARGEST_CHANGE_OF_LENGTH = 1e-4, 1e-3
"""Between embeddings of the exported network and of the original; the latter as a share of its length."""


class Agreement(NamedTuple):
    """How near an exported network comes to the original: the worst of all faces, in any of the batches."""

    faces: int
    cosine_distance: float
    """1 - cosine of the angle between the embeddings."""
    change_of_length: float
    """As a share of the embedding's length."""


def export_embedder(
    embedder: Path,
    output: Path,
    *,
    faces: Sequence[UInt8[np.ndarray, "side side 3"]] = (),
    license_text: str | None = None,
) -> Agreement:
    """Write an exported embedder as an ONNX file, with all that is needed to use it on a photo.

    Args:
        embedder: an `embedder.safetensors`.
        output: the file, which appears whole, and when it has proved to be right, or not at all.
        faces: aligned faces to hold it against the original on; drawn ones are added up to `CHECKED`.
        license_text: under which the weights may be used, as their owner states it.

    Raises:
        FacegmError: the embedder cannot be read, or what was written gives other embeddings; ONNX is not installed.
    """
    require_runtime()
    original = TrainedNetwork.load(embedder, torch.device("cpu"))
    source = json.loads(read_description(embedder) or "")
    file = OnnxFile(output, onnx_model(original.network, mirror=original.is_mirrored).SerializeToString())
    description = source | description_of(exported_network(file, source, original.contract))
    description |= {"alignment": source["alignment"]} | _likelihood(embedder) | _license(license_text)
    file = file.described(description)
    agreement = agreement_of(
        load_onnx(file), original, [*faces[:CHECKED], *drawn_faces(CHECKED - len(faces[:CHECKED]))]
    )
    require_agreement(agreement, output)
    file.write(output)
    return agreement


def describe_onnx_model(
    model: Path, preprocessing: OnnxPreprocessing | str | None, output: Path, *, license_text: str | None = None
) -> OnnxNetwork:
    """Write another program's ONNX model with what it takes to use it on a photo; its graph stays as it is.

    So does the description of a model that has one, but for the licence.

    Args:
        model: the file.
        preprocessing: see `facegm.embedding.onnx_model.load_onnx`.
        output: the file to write.
        license_text: under which the weights may be used, as their owner states it; None to leave that as it is.

    Raises:
        FacegmError: the model cannot be used.
    """
    network = load_onnx(OnnxFile.read(model), preprocessing=preprocessing)
    description = network.file.description or description_of(network)
    network.file.described(description | _license(license_text)).write(output)
    return load_onnx(OnnxFile.read(output))


def agreement_of(
    exported: EmbeddingNetwork, original: TrainedNetwork, faces: Sequence[UInt8[np.ndarray, "side side 3"]]
) -> Agreement:
    """Embed faces by both, the original as torch has it, in single precision; shows progress."""
    worst, crops = np.zeros(2), original.crops(faces)
    engine, mirror = exported.engine_for(len(faces), None), original.is_mirrored
    with Progress("check", len(faces), "faces") as progress:
        for start in range(0, len(faces), max(BATCHES)):
            some = slice(start, start + max(BATCHES))
            expected = embed_crops(original.network, crops[some], mirror=mirror, device=original.device)
            for size in BATCHES:
                parts = [faces[some][first : first + size] for first in range(0, len(expected), size)]
                found = [exported.embed(engine, exported.crops(part), mirror=mirror) for part in parts]
                worst = np.maximum(worst, _differences(np.concatenate(found), expected).max(axis=0))
            progress.update(len(expected))
    return Agreement(len(faces), float(worst[0]), float(worst[1]))


def require_agreement(agreement: Agreement, file: Path) -> None:
    """Refuse an exported network that differs.

    Raises:
        FacegmError: it does, or gives numbers that are not finite.
    """
    if not (
        agreement.cosine_distance <= LARGEST_COSINE_DISTANCE and agreement.change_of_length <= LARGEST_CHANGE_OF_LENGTH
    ):
        raise FacegmError(
            f"{file}: not written, for its embeddings differ from the original's by a cosine distance of "
            f"{agreement.cosine_distance:.2g} and {agreement.change_of_length:.2g} of their length; at most "
            f"{LARGEST_COSINE_DISTANCE:g} and {LARGEST_CHANGE_OF_LENGTH:g} are allowed"
        )


def faces_of_store(store: Path) -> list[UInt8[np.ndarray, "side side 3"]]:
    """Some faces to check by, evenly spaced over a store.

    Raises:
        FacegmError: it is no store of aligned faces, or a damaged one.
    """
    faces = open_aligned_faces(store, is_aligned=False)
    rows = np.flatnonzero(faces.identities()[0] >= 0)
    return [faces.read_face(int(row)) for row in rows[:: max(1, len(rows) // CHECKED)][:CHECKED]]


def drawn_faces(count: int) -> list[UInt8[np.ndarray, "128 128 3"]]:
    """Smooth patches of colour with some noise, where there are no faces at hand: the same in each call."""
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    drawn = (cv2.resize(one, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_CUBIC) for one in patches)
    return [np.clip(one + generator.normal(0, 8, one.shape), 0, 255).astype(np.uint8) for one in drawn]


def _differences(
    found: Float[np.ndarray, "faces dim"], expected: Float[np.ndarray, "faces dim"]
) -> Float[np.ndarray, "faces 2"]:
    """Cosine distance and relative change of length, in float64."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths_a, lengths_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / (lengths_a * lengths_b)
    return np.stack([1 - cosines, np.abs(lengths_a / lengths_b - 1)], axis=1)


def _likelihood(embedder: Path) -> dict[str, Any]:
    """That of an embedder with class means, unless they would make most of the file."""
    likelihood = read_likelihood(embedder)
    if likelihood is None:
        return {}
    if likelihood.means.nbytes > MOST_BYTES_OF_MEANS:
        logger.info(
            f"exported without the identities' means, of {likelihood.means.nbytes / 2**20:.0f} MiB where "
            f"{MOST_BYTES_OF_MEANS / 2**20:.0f} are taken along, and so without likelihoods"
        )
        return {}
    thresholds = thresholds_to_json(likelihood.thresholds)
    return {"likelihood": means_to_json(likelihood.means) | {"thresholds": thresholds}}


def _license(text: str | None) -> dict[str, Any]:
    return {} if text is None else {"license": text}
