"""The embeddings of many faces: by all processes of a run, each its share, and those alone that no cache has."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from facegm.data.ahead import done_ahead
from facegm.data.progress import Progress
from facegm.embedding.embedder import FaceEmbedder
from facegm.eval.embedding_cache import EmbeddingCache, face_digest

CHUNK = 512
"""Faces that are embedded between two entries in the cache: what an interruption costs at most."""
Value = TypeVar("Value")


@runtime_checkable
class Processes(Protocol):
    """Those that `torchrun` started; `facegm.training.distributed.Processes`, say."""

    @property
    def rank(self) -> int:
        """Number of this one."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    def gather(self, value: Value) -> list[Value]:
        """What each process says, in the order of their ranks."""

    def together(self) -> AbstractContextManager[None]:
        """Where one process fails in this context, all do."""


class OneProcess:
    """This process, alone."""

    rank, world_size = 0, 1

    def gather(self, value: Value) -> list[Value]:
        """See `Processes`."""
        return [value]

    def together(self) -> AbstractContextManager[None]:
        """See `Processes`."""
        return nullcontext()


def embed_all(
    embedder: FaceEmbedder,
    faces: Sequence[UInt8[np.ndarray, "side side 3"]],
    cache: EmbeddingCache,
    processes: Processes,
) -> Float32[np.ndarray, "faces dim"]:
    """Embed aligned faces, mirror-summed and not normalised; where it was interrupted, it goes on.

    Args:
        embedder: the same in all processes.
        faces: likewise; a face is asked for where its turn comes.
        cache: of this embedder.
        processes: those that share the work.

    Returns:
        All embeddings, in every process.
    """
    mine = range(processes.rank, len(faces), processes.world_size)
    parts = [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)]
    embeddings = np.empty((len(faces), embedder.dim), np.float32)
    with (
        processes.together(),
        Progress("embed", len(mine), "faces", is_shown=processes.rank == 0) as shown,
    ):
        for part, chunk in zip(parts, done_ahead([partial(_read, faces, part) for part in parts]), strict=True):
            new = {digest: face for digest, face in zip(*chunk, strict=True) if digest not in cache}
            if new:
                cache.add([*new], embedder.embed_aligned([*new.values()]))
            embeddings[part] = cache.embeddings(chunk.digests)
            shown.update(len(part))
    for rank, share in enumerate(processes.gather(embeddings[mine])):
        embeddings[rank :: processes.world_size] = share
    return embeddings


class _Chunk(NamedTuple):
    digests: Sequence[bytes]
    faces: Sequence[UInt8[np.ndarray, "side side 3"]]


def _read(faces: Sequence[UInt8[np.ndarray, "side side 3"]], part: Sequence[int]) -> _Chunk:
    read = [faces[number] for number in part]
    return _Chunk([face_digest(face) for face in read], read)
