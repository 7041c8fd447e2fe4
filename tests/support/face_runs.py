"""Small runs of face networks, on the fixture `small_store`, which tests stop, starve and resume."""

from pathlib import Path
from typing import Any

import torch

from facegm.data.preprocessing import Preprocessing
from facegm.embedding.model_file import load_embedder
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.models.face_network import FaceModelConfig
from facegm.training.config import TrainConfig, to_yaml

SMALL = Preprocessing(face_size=56, crop_size=48)
MODEL = FaceModelConfig(width=0.1, embedding_dim=16)


def small_config(store: Path, *, workers: int = 0, **train: Any) -> FaceRunConfig:
    """Six epochs of two steps, half of them saved and all in the log.

    Args:
        store: of 48 faces.
        workers: how many decode the faces anew in every step; 0 where they lie in memory.
        train: fields of `TrainConfig` that are to differ.
    """
    course: dict[str, Any] = {"epochs": 6.0, "batch_size": 24, "precision": "float32", "log_every": 1}
    residency: Any = {"residency": "stream", "workers": workers} if workers else {}
    return FaceRunConfig(
        data=FaceDataConfig(store=store, jitter=0.2, **residency),
        preprocessing=SMALL,
        model=MODEL,
        train=TrainConfig(**course | {"checkpoint_every": 6} | train),
    )


def write_config(folder: Path, config: FaceRunConfig) -> list[str]:
    """Write a configuration, and give the command that trains by it in the folder's `run`."""
    (folder / "config.yaml").write_text(to_yaml(config))
    return ["train", "--config", "config.yaml", "--output", "run"]


def exported(run: Path, name: str = "embedder.safetensors") -> dict[str, torch.Tensor]:
    """The weights of a run's embedder."""
    return load_embedder(run / name)[0].state_dict()


def write_pairs(file: Path) -> Path:
    """Write pairs of the people of `small_store` in LFW's format: two folds, six pairs of each kind."""
    lines = ["2\t6"]
    for fold in range(2):
        lines += [f"person_{k}\t{1 + fold}\t{5 + fold}" for k in range(6)]
        lines += [f"person_{k}\t{3 + fold}\tperson_{(k + 1) % 6}\t{7 + fold}" for k in range(6)]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file
