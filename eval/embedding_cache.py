"""Embeddings that were made before, by what they were made of: a face's pixels and a model's weights."""

import hashlib
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from facegm.data.files import replace_atomically
from facegm.embedding.embedder import FaceEmbedder

EMBEDDINGS = "embeddings"
"""Folder in that of a report."""
logger = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings of one model in a folder, which several processes may add to at a time.

    A file holds those that were added together, and is called by the SHA-256 of its content, by which damage is seen: a
    damaged one is passed over with a warning, and its faces are embedded again.

    Args:
        folder: made when something is added.
        model: digest of the model's weights, and of all else that an embedding follows from.
        dim: length of an embedding.
    """

    def __init__(self, folder: Path, model: str, dim: int) -> None:
        self._folder = folder / model[:16]
        self._type = np.dtype([("face", "u1", (32,)), ("embedding", "<f4", (dim,))])
        self._known: dict[bytes, Float32[np.ndarray, " dim"]] = {}
        for file in sorted(self._folder.glob("*.npy")):
            rows = self._read(file)
            if rows is None:
                logger.warning(f"{file}: damaged; its faces are embedded again, if they are asked for")
                continue
            self._known |= {row["face"].tobytes(): row["embedding"] for row in rows}

    @classmethod
    def of(cls, embedder: FaceEmbedder, weights: str, output: Path) -> "EmbeddingCache":
        """That of an embedder, in the folder of a report.

        Args:
            embedder: loaded.
            weights: the digest of its weights.
            output: folder of the report.
        """
        fingerprint = hashlib.sha256(f"{weights} {embedder.describe()}".encode()).hexdigest()
        return cls(output / EMBEDDINGS, fingerprint, embedder.dim)

    def __contains__(self, face: bytes) -> bool:
        return face in self._known

    def add(self, faces: Sequence[bytes], embeddings: Float32[np.ndarray, "faces dim"]) -> None:
        """Keep embeddings, on the disk too.

        Args:
            faces: `face_digest` of each.
            embeddings: one row a face.
        """
        rows = np.empty(len(faces), self._type)
        rows["face"] = np.frombuffer(b"".join(faces), np.uint8).reshape(-1, 32)
        rows["embedding"] = embeddings
        self._folder.mkdir(parents=True, exist_ok=True)
        with io.BytesIO() as file:
            np.save(file, rows, allow_pickle=False)
            data = file.getvalue()
        replace_atomically(self._folder / f"{hashlib.sha256(data).hexdigest()}.npy", data)
        self._known |= dict(zip(faces, embeddings, strict=True))

    def embeddings(self, faces: Iterable[bytes]) -> Float32[np.ndarray, "faces dim"]:
        """Those of faces that are all there, in their order."""
        found = [self._known[face] for face in faces]
        return np.stack(found) if found else np.empty((0, self._type["embedding"].shape[0]), np.float32)

    def _read(self, file: Path) -> np.ndarray | None:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.stem:
            return None
        rows = np.load(io.BytesIO(data), allow_pickle=False)
        return rows if rows.dtype == self._type else None


def face_digest(face: UInt8[np.ndarray, "side side 3"]) -> bytes:
    """SHA-256 of a face's pixels."""
    return hashlib.sha256(face.tobytes()).digest()
