"""A set to verify, from its faces or from ready embeddings to the report."""

import hashlib
from pathlib import Path

import torch

from facegm.embedding.embedder import FaceEmbedder
from facegm.eval.embedding import OneProcess, Processes, embed_all
from facegm.eval.embedding_cache import EmbeddingCache
from facegm.eval.embedding_files import NamedEmbeddings, read_embeddings
from facegm.eval.evaluation import VerificationReport
from facegm.eval.found_faces import FoundFaces, faces_of, packed_faces
from facegm.eval.insightface_bin import PackedSet
from facegm.eval.provenance import provenance_of
from facegm.eval.set_to_verify import SetToVerify
from facegm.store.format import is_store

EMBEDDINGS, ALIGNED = "embeddings", "aligned"
"""Folders in that of the report: embeddings that were made, and the store of faces of photos."""


def verify_faces(
    model: Path,
    chosen: SetToVerify,
    faces: Path | PackedSet,
    output: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    processes: Processes | None = None,
    note: str = "",
) -> VerificationReport | None:
    """Verify an exported embedder.

    Args:
        model: run folder or embedder file.
        chosen: what is to be verified.
        faces: folder of photos, a store of their aligned faces, or a packed set.
        output: folder of the report, of the embeddings, which are kept, and of the faces of photos.
        device: where the network runs.
        workers: worker processes of the alignment; None for as many as the machine has room for.
        processes: those that share the embedding; the first one aligns, scores and writes.
        note: one line that the report shows beside the numbers.

    Returns:
        The report, in the first process alone.

    Raises:
        FacegmError: model or faces are missing or unusable.
    """
    processes = processes or OneProcess()
    embedder = FaceEmbedder.load(model, device=device)
    found = None
    with processes.together():
        if processes.rank == 0:
            found = _found(chosen, faces, output, workers)
    if found is None:  # the first process has aligned what is to be aligned
        is_ready = isinstance(faces, PackedSet) or is_store(faces)
        found = _found(chosen, faces if is_ready else output / ALIGNED, output, workers)
    provenance = provenance_of(model, found.settings, chosen.pairs)
    fingerprint = hashlib.sha256(f"{provenance.model_digest} {embedder.describe()}".encode()).hexdigest()
    cache = EmbeddingCache(output / EMBEDDINGS, fingerprint, embedder.dim)
    embeddings = embed_all(embedder, found.faces, cache, processes)
    if processes.rank > 0:
        return None
    return chosen.report(
        output,
        NamedEmbeddings(names=found.faces.names, embeddings=embeddings),
        face_of=found.faces.face,
        fallback_images=found.fallback_images,
        provenance=provenance,
        facts={"model": str(model), "photos": str(found.source), "embedding": embedder.describe()},
        note=note,
    )


def verify_embeddings(file: Path, chosen: SetToVerify, output: Path) -> VerificationReport:
    """Verify ready embeddings of anybody's model.

    Raises:
        FacegmError: the file is unusable, or embeddings are missing that must not be.
    """
    named = read_embeddings(file)
    facts = {"embeddings": str(file), "embedding": f"{len(named.names):,} of {named.embeddings.shape[1]} dimensions"}
    return chosen.report(output, named, facts=facts)


def _found(chosen: SetToVerify, faces: Path | PackedSet, output: Path, workers: int | None) -> FoundFaces:
    if isinstance(faces, PackedSet):
        return packed_faces(faces)
    return faces_of(faces, chosen.images, output / ALIGNED, workers=workers, allow_missing=chosen.allow_missing)
