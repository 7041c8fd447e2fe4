"""Measures faces, as they are and degraded, block by block into a folder, so that little is lost whatever ends it."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from facegm.align.detector import DetectedFaces, FaceDetector
from facegm.align.face import FaceChoice, sharpness
from facegm.data.names import escaped
from facegm.data.progress import Progress
from facegm.data.weights import digest_of, read_weights, write_weights
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.degradations import Degradation, degrade
from facegm.eval.quality_scores import MeasuredFaces

logger = logging.getLogger(__name__)

BLOCK = 256
"""Faces in a file, and the most that a killed process loses."""
_BATCH = 32
"""Faces that go through the networks together."""
_COLUMNS = tuple(field.name for field in fields(MeasuredFaces))

ReadFace = Callable[[str], UInt8[np.ndarray, "side side 3"]]
"""Gives the aligned face (RGB, 0 to 255) of an image name."""


class View(NamedTuple):
    """A face as it is measured."""

    name: str
    """Of the image."""
    degradation: Degradation | None
    """None for the face as it is."""


def measure(
    folder: Path,
    views: Sequence[View],
    read_face: ReadFace,
    embedder: FaceEmbedder,
    *,
    seed: int,
    made_of: Mapping[str, Any],
) -> MeasuredFaces:
    """Measure faces, or read what was measured before; shows progress.

    Args:
        folder: for the files, made when missing; what is damaged, or of something else, is made anew.
        views: the faces, in the order of the result.
        read_face: gives them.
        embedder: of which the sides of each face are taken.
        seed: of the degradations.
        made_of: whatever else the result depends on, such as the model.

    Raises:
        FacegmError: a face is missing or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = FaceDetector()
    blocks = []
    with Progress("measure", len(views), "faces") as progress:
        for start in range(0, len(views), BLOCK):
            some = views[start : start + BLOCK]
            file = folder / f"{start // BLOCK}.safetensors"
            described = [[escaped(view.name), _described(view.degradation)] for view in some]
            description = {**made_of, "seed": seed, "views": hashlib.sha256(json.dumps(described).encode()).hexdigest()}
            block = _read(file, description)
            if block is None:
                block = _measured_block(some, read_face, embedder, detector, seed)
                write_weights(file, block, {**description, "content": digest_of(block)})
            blocks.append(block)
            progress.update(len(some))
    return MeasuredFaces(**{name: torch.cat([block[name] for block in blocks]).numpy() for name in _COLUMNS})


def _described(degradation: Degradation | None) -> list[str | float]:
    return [] if degradation is None else [degradation.kind, degradation.strength]


def _read(file: Path, description: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """A block that was measured before; None where it has to be made."""
    if not file.exists():
        return None
    try:
        tensors, found = read_weights(file)
        known = json.loads(found or "null")
    except (FacegmError, ValueError):
        known = None
    if known == {**description, "content": digest_of(tensors)} if known else False:
        return tensors
    logger.warning(f"{file}: damaged, or of another model, set or seed; these faces are measured anew")
    return None


def _measured_block(
    views: Sequence[View], read_face: ReadFace, embedder: FaceEmbedder, detector: FaceDetector, seed: int
) -> dict[str, torch.Tensor]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for batch in _batches(views, read_face, seed):
        face_side, mirrored_side = embedder.embed_sides(np.stack(batch))
        found = detector.detect_batch(batch)
        parts["face_side"].append(face_side)
        parts["mirrored_side"].append(mirrored_side)
        parts["probability"].append(
            np.array([_probability(faces, face) for faces, face in zip(found, batch, strict=True)])
        )
        parts["sharpness"].append(np.array([sharpness(face) for face in batch]))
    return {name: torch.from_numpy(np.concatenate(some)) for name, some in parts.items()}


def _batches(views: Sequence[View], read_face: ReadFace, seed: int) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(views), _BATCH):
        yield [
            degrade(read_face(view.name), view.degradation, name=view.name, seed=seed)
            for view in views[start : start + _BATCH]
        ]


def _probability(found: DetectedFaces, face: UInt8[np.ndarray, "side side 3"]) -> float:
    """That of the largest central face; 0 where there is none."""
    chosen = FaceChoice().choose(found, face.shape)
    return 0.0 if chosen is None else float(found.probabilities[chosen])
