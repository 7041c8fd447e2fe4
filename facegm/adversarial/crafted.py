"""A set of images after an attack, made batch by batch into a folder, so that little is lost whatever ends the work."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from facegm.adversarial.craft import Crafted
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, Subject
from facegm.classification.prediction import full_precision
from facegm.data.progress import Progress
from facegm.data.weights import digest_of, read_weights, write_weights
from facegm.errors import FacegmError

logger = logging.getLogger(__name__)

BATCH = 100
"""Images that are attacked together, and the most that a killed process loses."""
Numbers = Int64[Tensor, " images"]
BatchAttack = Callable[[Images, Numbers, Numbers], Attacked]
"""Attacks images, by their labels and their numbers in the set, all on one device."""


def craft_in_batches(
    folder: Path,
    recipe: AttackRecipe,
    subject: Subject,
    images: Images,
    labels: Numbers,
    numbers: Numbers,
    *,
    attack: BatchAttack,
    about: str = "",
    batch_size: int = BATCH,
) -> Crafted:
    """Attack images in full single precision, or read those that were attacked before.

    Each batch is a file, 0.safetensors and so on, with a digest of its content and one of all that it was made of. What
    is damaged, or made of something else, is made anew.

    Args:
        folder: for the files; made when missing.
        recipe: what `attack` does.
        subject: what is attacked, in evaluation mode on the device that is to compute.
        images: clean ones, on any device.
        labels: the classes that they are of.
        numbers: theirs in the set, by which an attack draws its random numbers.
        attack: does a batch of them.
        about: whatever else the result depends on, such as the detector that is to be defeated.
        batch_size: images that are attacked together.

    Returns:
        All of them, on the CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_of = {"attack": asdict(recipe), "about": about, "weights": digest_of(subject.module.state_dict())}
    parts = {"images": images, "labels": labels, "numbers": numbers}
    done = []
    with Progress("attack", len(images), "images") as progress:
        for start in range(0, len(images), batch_size):
            some = {name: part[start : start + batch_size] for name, part in parts.items()}
            file, description = folder / f"{start // batch_size}.safetensors", {**made_of, "clean": digest_of(some)}
            crafted = _read(file, description)
            if crafted is None:
                with full_precision(subject.device):
                    attacked = attack(*(part.to(subject.device) for part in some.values()))
                _write(file, attacked, description)
                crafted = _read(file, description)
                assert crafted is not None
            done.append(crafted)
            progress.update(len(crafted.images))
    return _of_tensors({name: torch.cat([_tensors_of(one)[name] for one in done]) for name in _tensors_of(done[0])})


def _tensors_of(attacked: Attacked) -> dict[str, Tensor]:
    """All that is known, by name."""
    return {name: part for name, part in vars(attacked).items() if part is not None}


def _of_tensors(tensors: Mapping[str, Tensor]) -> Crafted:
    return Crafted(**{"targets": None, **tensors})  # type: ignore[arg-type]


def _write(file: Path, attacked: Attacked, description: Mapping[str, Any]) -> None:
    tensors = _tensors_of(attacked)
    write_weights(file, tensors, {**description, "content": digest_of(tensors)})


def _read(file: Path, description: Mapping[str, Any]) -> Crafted | None:
    """A batch on the CPU; None where it has to be made."""
    if not file.exists():
        return None
    try:
        tensors, found = read_weights(file)
        known = json.loads(found or "null")
    except (FacegmError, ValueError):
        logger.warning(f"{file}: damaged; these images are attacked anew")
        return None
    if known == {**description, "content": digest_of(tensors)}:
        return _of_tensors(tensors)
    is_whole = isinstance(known, dict) and known.get("content") == digest_of(tensors)
    what = "made of other images, weights or settings" if is_whole else "damaged"
    logger.warning(f"{file}: {what}; these images are attacked anew")
    return None
