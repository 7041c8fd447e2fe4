"""What a configuration would train on, and what it meets with on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from facegm.checkup.bottleneck import Circumstances
from facegm.checkup.random_store import RandomStore
from facegm.data.machine import cores
from facegm.data.residency import choose_residency
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import open_training_faces
from facegm.faces.samples import LabelledFaces
from facegm.training.devices import autocast_dtype

CASIA_IDENTITIES, CASIA_FACES = 10_575, 494_414


@dataclass(frozen=True)
class TrainingData:
    """The faces of a store; where there is none yet, random pictures in the numbers of CASIA-WebFace."""

    faces: LabelledFaces
    identities: int
    decoded_size: int
    """Bytes of all faces when they are decoded and resized."""
    settings: Mapping[str, Any] | None
    """How they were aligned and encoded; None where there is none yet."""


def open_training_data(config: FaceRunConfig) -> TrainingData:
    """The faces that a configuration names, or what stands in for them.

    Raises:
        FacegmError: something else is in the store's place, or its faces cannot be trained on.
    """
    if not config.data.store.exists():
        random_faces = LabelledFaces(RandomStore(CASIA_IDENTITIES), config.preprocessing)
        size = CASIA_FACES * config.preprocessing.face_size**2 * 3
        return TrainingData(random_faces, CASIA_IDENTITIES, size, None)
    faces = open_training_faces(config)
    return TrainingData(faces, len(faces.identities), len(faces) * faces.image_bytes, faces.settings)


def circumstances(config: FaceRunConfig, data: TrainingData, device: torch.device) -> Circumstances:
    """What decides, beside the speed of the stages, how fast training is and what would help."""
    return Circumstances(
        residency=choose_residency(config.data.residency, data.decoded_size, device),
        is_gpu=device.type == "cuda",
        cores=cores(),
        encoding="png" if data.settings is None else data.settings.get("encoding", "their own"),
        has_short_precision=autocast_dtype("auto", device) is not None,
    )
