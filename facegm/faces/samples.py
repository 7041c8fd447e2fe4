"""Aligned faces with labels as a data set for training, and their augmentation."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from facegm.data.preprocessing import Preprocessing, crop_and_mirror, network_input
from facegm.data.residency import decode_to
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError
from facegm.store.reader import NO_IDENTITY, AlignedFaces

logger = logging.getLogger(__name__)
_BLOCK = 2**16
"""Names that are made at a time."""


class FaceDraws(NamedTuple):
    """How faces are augmented, a row a face: arrays where they are drawn, tensors in a batch."""

    top: Any
    left: Any
    """Where the crop begins, in pixels of the resized face; integers."""
    mirrored: Any
    """Booleans."""
    contrast: Any
    """Factor on the deviation of the pixels from the crop's mean; float32."""
    brightness: Any
    """Added to all pixels, on the network's scale."""


def augmented_input(batch: Batch, side: int) -> Float[Tensor, "batch 3 {side} {side}"]:
    """The network's input for a batch: each face cropped to `side` pixels, mirrored and changed as drawn."""
    draws = FaceDraws(*batch.draws)
    images = network_input(crop_and_mirror(batch.images, draws.top, draws.left, draws.mirrored, side))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (factor[:, None, None, None].to(images) for factor in (draws.contrast, draws.brightness))
    changed: Tensor = mean + contrast * (images - mean) + brightness
    return changed


class LabelledFaces(Samples):
    """Aligned faces with integer labels, found from their records' identities.

    Args:
        store: the aligned faces.
        preprocessing: resize and crop.
        jitter: largest random change of contrast and brightness.
        exclude_identities: identities to leave out, such as those that are also in the evaluation set; those that the
            store does not know are named in a warning.

    Raises:
        FacegmError: fewer than two identities are left.
    """

    def __init__(
        self,
        store: AlignedFaces,
        preprocessing: Preprocessing,
        *,
        jitter: float = 0.0,
        exclude_identities: Collection[str] = (),
    ) -> None:
        self._store, self._preprocessing, self._jitter = store, preprocessing, jitter
        numbers, of_store = store.identities()
        names = list(of_store)
        number_of = {name: number for number, name in enumerate(names)} if exclude_identities else {}
        unknown = sorted(set(exclude_identities) - number_of.keys())
        if unknown:
            logger.warning(
                f"{store.folder}: of the {len(set(exclude_identities))} identities to exclude, {len(unknown)} are not "
                f"here: {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
            )
        excluded = np.isin(numbers, [number_of[name] for name in exclude_identities if name in number_of])
        self._rows = np.flatnonzero((numbers >= 0) & ~excluded)
        found = np.flatnonzero(np.bincount(numbers[self._rows], minlength=len(names))).tolist()
        found.sort(key=names.__getitem__)
        self.identities = tuple(names[number] for number in found)
        label_of = np.zeros(len(names), np.int64)
        label_of[found] = np.arange(len(found))
        self.labels = label_of[numbers[self._rows]]
        strangers = int((numbers == NO_IDENTITY).sum())
        if len(self.identities) < 2:
            raise FacegmError(
                f"{store.folder}: {len(self.identities)} identity with aligned faces"
                f"{f', and {strangers:,} faces of no known identity' if strangers else ''}; training needs at least "
                "two, each in a folder of its own"
            )
        if strangers:
            logger.warning(f"{store.folder}: {strangers:,} faces of no known identity are left out")
        self.keys: Sequence[str] = _KeysOfRows(store.keys, self._rows)
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
        for start in range(0, len(self), _BLOCK):
            keys, labels = self.keys[start : start + _BLOCK], self.labels[start : start + _BLOCK].tolist()
            lines = [f"{key}\0{self.identities[label]}\n" for key, label in zip(keys, labels, strict=True)]
            digest.update("".join(lines).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    @property
    def image_bytes(self) -> int:
        """Bytes of a decoded and resized face."""
        return self._preprocessing.face_size**2 * 3

    @property
    def can_be_kept(self) -> bool:
        """Always, since all are resized alike."""
        return True

    @property
    def is_in_memory(self) -> bool:
        """Whether all are decoded."""
        return self._decoded is not None

    def keep_decoded(self, device: torch.device) -> None:
        """Decode all faces once, and keep them in the memory of a device.

        Raises:
            FacegmError: a face is missing or damaged.
        """
        side = self._preprocessing.face_size
        self._decoded = decode_to(device, self._load, len(self), (side, side, 3))
        self._labels = self._labels.to(device)

    def draw(self, numbers: Int64[np.ndarray, " batch"], rng: np.random.Generator | None) -> FaceDraws:
        """Crop anywhere, mirror half of them, change contrast and brightness; without `rng` the middle as it is."""
        size, slack, jitter = len(numbers), self._preprocessing.slack, self._jitter
        if rng is None:
            corner, ones = np.full(size, slack // 2), np.ones(size, np.float32)
            return FaceDraws(corner, corner, np.zeros(size, np.bool_), ones, 0 * ones)
        top, left = rng.integers(0, slack + 1, (2, size))
        mirrored = (rng.random(size) < 0.5) & self._preprocessing.mirror
        contrast, brightness = rng.uniform(-jitter, jitter, (2, size)).astype(np.float32)
        return FaceDraws(top, left, mirrored, 1 + contrast, brightness)

    def __getitem__(self, drawn: DrawnSamples) -> Batch:
        number = torch.from_numpy(drawn.numbers)
        if self._decoded is None:
            faces = torch.from_numpy(np.stack([self._load(index) for index in drawn.numbers.tolist()]))
        else:
            number = number.to(self._decoded.device, non_blocking=True)
            faces = self._decoded.index_select(0, number)
        return Batch(faces, self._labels[number], FaceDraws(*map(torch.from_numpy, drawn.draws)))

    def _load(self, index: int) -> UInt8[np.ndarray, "side side 3"]:
        return self._preprocessing.resize(self._store.read_face(int(self._rows[index])))


class _KeysOfRows(Sequence[str]):
    """Those of the names of a store that belong to some rows, without a copy of them."""

    def __init__(self, keys: Sequence[str], rows: Int64[np.ndarray, " faces"]) -> None:
        self._keys, self._rows = keys, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: Any) -> Any:
        if not isinstance(number, slice):
            return self._keys[int(self._rows[number])]
        rows = self._rows[number]
        if not len(rows):
            return []
        keys = self._keys[int(rows[0]) : int(rows[-1]) + 1]  # rows ascend
        return [keys[row] for row in (rows - rows[0]).tolist()]


def few_faces(labels: Int64[np.ndarray, " faces"], *, identities: int, each: int) -> Int64[np.ndarray, " few"]:
    """Numbers of the first faces of each of some identities: of those first that have so many.

    Args:
        labels: identity of each face of a data set.
        identities: how many at most.
        each: faces of each at most.
    """
    counts = np.minimum(np.bincount(labels), each)
    chosen = np.argsort(-counts, kind="stable")[:identities]
    return np.concatenate([np.flatnonzero(labels == identity)[:each] for identity in chosen])


def plain_batch(faces: Samples, numbers: Int64[np.ndarray, " batch"]) -> Batch:
    """Faces in the middle crop, not mirrored or changed, with their identities numbered from 0."""
    batch = faces[DrawnSamples(numbers, faces.draw(numbers, None))]
    return batch._replace(labels=torch.unique(batch.labels, return_inverse=True)[1])
