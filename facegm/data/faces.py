"""Aligned faces with labels as a data set for training."""

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from facegm.data.batch import Batch
from facegm.data.draws import Draws
from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Samples
from facegm.data.store import FaceRecord
from facegm.errors import FacegmError

_BLOCK = 1024
"""Faces that are decoded together."""


class AlignedFaces(Protocol):
    """A store (`facegm.data.store.FaceStore`), or what can be read like one."""

    @property
    def folder(self) -> Path:
        """Where they lie, for messages."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How they were found, aligned and encoded; see `facegm.data.store.read_settings`."""

    @property
    def records(self) -> Mapping[str, FaceRecord]:
        """What is known of each face, by key, in order."""

    def read_face(self, key: str) -> UInt8[np.ndarray, "size size 3"]:
        """Read one face: RGB, 0 to 255."""


class LabelledFaces(Samples):
    """Aligned faces with integer labels, found from their records' identities; gives batches as drawn.

    Args:
        store: the aligned faces.
        preprocessing: resize and crop.
        exclude_identities: identities to leave out, such as those that are also in the evaluation set.

    Raises:
        FacegmError: fewer than two identities are left, or an excluded identity does not exist.
    """

    def __init__(
        self, store: AlignedFaces, preprocessing: Preprocessing, *, exclude_identities: Collection[str] = ()
    ) -> None:
        self._store, self._preprocessing = store, preprocessing
        records = [record for record in store.records.values() if record.has_face_image]
        unknown = set(exclude_identities) - {record.identity for record in records}
        if unknown:
            raise FacegmError(f"{store.folder}: no such identity to exclude: {', '.join(sorted(unknown)[:5])}")
        kept = [record for record in records if record.identity not in set(exclude_identities)]
        self.keys = tuple(record.key for record in kept)
        self.identities = tuple(sorted({record.identity for record in kept}))
        if len(self.identities) < 2:
            raise FacegmError(
                f"{store.folder}: {len(self.identities)} identity with aligned faces; training needs at least two, "
                "each in a folder of its own"
            )
        number = {identity: label for label, identity in enumerate(self.identities)}
        self.labels = np.array([number[record.identity] for record in kept], np.int64)
        self._labels = torch.from_numpy(self.labels)
        self._decoded: UInt8[Tensor, "faces side side 3"] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """How these faces were found, aligned and encoded."""
        return self._store.settings

    @property
    def alignment(self) -> dict[str, Any]:
        """The same without where photos and faces lie."""
        return {name: value for name, value in self.settings.items() if name not in ("source", "container")}

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the names and identities of all faces."""
        digest = hashlib.sha256()
        for key, label in zip(self.keys, self.labels, strict=True):
            digest.update(f"{key}\0{self.identities[label]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    @property
    def decoded_size(self) -> int:
        """Bytes of all faces when they are decoded and resized."""
        return len(self) * self._preprocessing.face_size**2 * 3

    def keep_decoded(self, device: torch.device) -> None:
        """Decode all faces once, and keep them in the memory of a device.

        Raises:
            FacegmError: a face is missing or damaged.
        """
        side = self._preprocessing.face_size
        faces = torch.empty(len(self), side, side, 3, dtype=torch.uint8, device=device)
        with (
            ThreadPoolExecutor() as threads,
            tqdm(desc="decode", total=len(self), unit="face", disable=None, delay=2) as progress,
        ):
            for start in range(0, len(self), _BLOCK):  # those for a GPU would take as much of the host's memory
                block = torch.stack([*threads.map(self._load, range(start, min(start + _BLOCK, len(self))))])
                faces[start : start + len(block)] = block
                progress.update(len(block))
        self._decoded = faces
        self._labels = self._labels.to(device)

    def __getitem__(self, draws: Draws) -> Batch:
        number = torch.from_numpy(draws.sample)
        if self._decoded is None:
            faces = torch.stack([self._load(index) for index in draws.sample.tolist()])
        else:
            number = number.to(self._decoded.device, non_blocking=True)
            faces = self._decoded[number]
        return Batch.of(faces, self._labels[number], draws)

    def _load(self, index: int) -> UInt8[Tensor, "side side 3"]:
        return torch.from_numpy(self._preprocessing.resize(self._store.read_face(self.keys[index])))
