"""What is embedded into a file: photos, whose faces workers find, or a store of faces that are found already."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from facegm.align.detector import STAGE_THRESHOLDS
from facegm.align.engines import WorkerPool
from facegm.align.finder import BATCH
from facegm.align.networks import Runtime, require_runtime
from facegm.data.ahead import done_ahead
from facegm.data.readers.source import Stamp, find_photos, photo_stamp
from facegm.embedding.aligned_embedder import with_unit_length
from facegm.embedding.embed_config import EmbedConfig
from facegm.embedding.embed_job import EmbedJob, Rows
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.face_table import Row, stored_row
from facegm.embedding.model_device import computation, device_of_model
from facegm.errors import UsageError
from facegm.store.reader import FaceStore

STORE_BATCH = 256
"""Photos of a store whose faces are embedded together."""


class PhotosToEmbed:
    """The photos of a source, whose faces worker processes find, align and embed.

    Args:
        source: see `facegm.data.readers.source.find_photos`.
        model: run folder or file of the embedder.
        config: how.

    Raises:
        UsageError: the device is one of several GPUs.
        FacegmError: source or model are unusable, or what computes is not here.
    """

    group = BATCH
    """Photos that are looked at together."""

    def __init__(self, source: Path, model: Path, config: EmbedConfig) -> None:
        self.embedder = FaceEmbedder.load(model, device="cpu")  # to say what it is: workers have their own
        found = find_photos(source, identity_level=config.identity_level)
        self.remarks, self._photos, self._config = found.remarks, found.photos, config
        if config.device.startswith("cuda:"):
            raise UsageError(
                f"device {config.device}: worker processes share all GPUs; take cuda, and show them one alone by "
                "CUDA_VISIBLE_DEVICES"
            )
        if config.engine == "ray" and config.device != "auto":
            device = config.device  # where the cluster has it, and not perhaps this machine
        else:
            device = device_of_model(model, config.device).type
        self._runtime: Runtime = config.runtime or ("cuda" if device == "cuda" else "cpu")
        if config.engine == "local":
            require_runtime(self._runtime)
        self._job = EmbedJob(
            model=model.resolve(),
            policy=config.policy,
            device=device,
            runtime=self._runtime,
            photos=len(self._photos),
        )

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows follow from."""
        containers: dict[str, Stamp | None] = {}
        return {
            "photos": _digest_of((photo.key, photo.identity, photo_stamp(photo, containers)) for photo in self._photos),
            "policy": self._config.policy,
            "detector": "facenet-pytorch MTCNN",
            "stage_thresholds": list(STAGE_THRESHOLDS),
            "runtime": self._runtime,
            "computation": computation(self._job.model, self._job.device, len(self)),
        }

    def rows(self, done: int) -> Iterator[list[Rows]]:
        """The rows of the photos from a number on, a multiple of `group`, in their order.

        Raises:
            FacegmError: workers cannot do their work.
        """
        groups = [self._photos[start : start + BATCH] for start in range(done, len(self._photos), BATCH)]
        with WorkerPool(groups, self._job, engine=self._config.engine, workers=self._config.workers) as workers:
            yield from workers


class StoreToEmbed:
    """The faces of a store, embedded in this process; its other photos say why they have none.

    Args:
        store: the folder.
        model: run folder or file of the embedder.
        device: where it runs.

    Raises:
        FacegmError: store or model are unusable, or there is no such device.
    """

    group = STORE_BATCH
    """Photos whose faces are embedded together."""
    remarks: tuple[str, ...] = ()

    def __init__(self, store: Path, model: Path, device: str) -> None:
        self._store = FaceStore(store)
        columns = ["key", "identity", "status", "reason", "faces", "box", "landmarks", "probability"]
        self._table = self._store.table([*columns, "residual", "profile", "sharpness", "contrast", "checksum"])
        there = device_of_model(model, device)
        self.embedder = FaceEmbedder.load(model, device=there, expected=len(self._table))
        self._computation = computation(model, there.type, len(self._table))

    def __len__(self) -> int:
        return len(self._table)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows follow from."""
        names = ["key", "identity", "status", "checksum"]
        rows = zip(*(self._table[name].to_pylist() for name in names), strict=True)
        return {"photos": _digest_of(rows), "detector": "the store's", "computation": self._computation}

    def rows(self, done: int) -> Iterator[list[Rows]]:
        """See `PhotosToEmbed.rows`.

        Raises:
            FacegmError: a face is missing or damaged, or its embedding has no direction.
        """
        spans = [range(start, min(start + STORE_BATCH, len(self))) for start in range(done, len(self), STORE_BATCH)]
        for read in done_ahead([partial(self._read, span) for span in spans]):
            numbers = self._numbers([face for face in read.faces if face is not None])
            yield [
                [stored_row(record, None if face is None else next(numbers))]
                for record, face in zip(read.records, read.faces, strict=True)
            ]

    def _numbers(self, faces: Sequence[UInt8[np.ndarray, "size size 3"]]) -> Iterator[Row]:
        """What stands of faces in their rows, by column."""
        if not faces:
            return
        raw, likelihood = self.embedder.embed_aligned(faces), self.embedder.likelihood
        judged = None if likelihood is None else likelihood.judge(raw, is_mirrored=self.embedder.is_mirrored)
        for number, (embedding, norm) in enumerate(zip(*with_unit_length(raw), strict=True)):
            row: dict[str, Any] = {"norm": float(norm), "embedding": embedding}
            if judged is not None:
                row["likelihood"] = float(judged.likelihood[number])
                row["is_abnormal"] = None if judged.is_abnormal is None else bool(judged.is_abnormal[number])
            yield row

    def _read(self, span: range) -> "_Read":
        records = self._table.slice(span.start, len(span)).to_pylist()
        has_face = [record["status"] != "failed" for record in records]
        faces = [self._store.read_face(row) if one else None for row, one in zip(span, has_face, strict=True)]
        return _Read(records, faces)


class _Read(NamedTuple):
    """Some photos of a store."""

    records: Sequence[dict[str, Any]]
    """What the manifest says of each."""
    faces: Sequence[UInt8[np.ndarray, "size size 3"] | None]
    """RGB, 0 to 255."""


def _digest_of(rows: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 of the texts of rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
