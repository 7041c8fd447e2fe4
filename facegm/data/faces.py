"""The labelled faces of a store as a data set for training."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from facegm.data.draws import Draw
from facegm.data.preprocessing import Preprocessing
from facegm.data.store import FaceStore
from facegm.errors import FacegmError

RESIDENT_LIMIT = 2 * 2**30
"""Bytes of decoded faces that are kept in memory; a larger set is decoded anew in every epoch by worker processes."""


class Sample(NamedTuple):
    """One training face, or a batch of them with a leading dimension."""

    crop: UInt8[Tensor, "*batch crop crop 3"]
    """RGB, 0 to 255, mirrored or not."""
    label: Tensor
    contrast: Tensor
    brightness: Tensor
    """What is left to apply on the device, see `facegm.data.draws.Draw`."""


class LabelledFaces(Dataset[Sample]):
    """The aligned faces of a store with integer labels, found from the manifest's identities.

    Args:
        store: the aligned faces.
        preprocessing: resize and crop.
        exclude_identities: identities to leave out, such as those that are also in the evaluation set.

    Raises:
        FacegmError: fewer than two identities are left, or an excluded identity does not exist.
    """

    def __init__(
        self, store: FaceStore, preprocessing: Preprocessing, *, exclude_identities: Collection[str] = ()
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
        self._resident: UInt8[Tensor, "faces side side 3"] | None = None
        if len(kept) * preprocessing.face_size**2 * 3 <= RESIDENT_LIMIT:
            self._resident = self._load_all()

    @property
    def alignment(self) -> dict[str, Any]:
        """How these faces were found and aligned: the settings of their store, without where photos and faces lie."""
        return {name: value for name, value in self._store.settings.items() if name not in ("source", "container")}

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the names and identities of all faces."""
        digest = hashlib.sha256()
        for key, label in zip(self.keys, self.labels, strict=True):
            digest.update(f"{key}\0{self.identities[label]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    @property
    def is_resident(self) -> bool:
        """Whether all faces are decoded in memory."""
        return self._resident is not None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, draw: Draw) -> Sample:
        face = self._load(draw.face) if self._resident is None else self._resident[draw.face]
        side = self._preprocessing.crop_size
        crop = face[draw.top : draw.top + side, draw.left : draw.left + side]
        return Sample(
            crop=crop.flip(1) if draw.mirrored else crop,
            label=torch.tensor(self.labels[draw.face]),
            contrast=torch.tensor(draw.contrast),
            brightness=torch.tensor(draw.brightness),
        )

    def _load(self, index: int) -> UInt8[Tensor, "side side 3"]:
        return torch.from_numpy(self._preprocessing.resize(self._store.read_face(self.keys[index])))

    def _load_all(self) -> UInt8[Tensor, "faces side side 3"]:
        side = self._preprocessing.face_size
        faces = torch.empty(len(self), side, side, 3, dtype=torch.uint8)

        def load(index: int) -> None:
            faces[index] = self._load(index)

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(load, range(len(self))):
                pass
        return faces
