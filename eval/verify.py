"""A set to verify, from its faces or from ready embeddings to the report."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.likelihood import LikelihoodThreshold, training_scale
from facegm.embedding.model_file import embedder_file, write_calibration
from facegm.eval.calibration import embedder_calibration
from facegm.eval.embedding import OneProcess, Processes, embed_all
from facegm.eval.embedding_cache import EmbeddingCache
from facegm.eval.evaluation import VerificationReport
from facegm.eval.likelihood import likelihood_thresholds
from facegm.eval.reports.provenance import provenance_of
from facegm.eval.scores import NO_PCA
from facegm.eval.set_to_verify import SetToVerify
from facegm.eval.sets.embedding_files import NamedEmbeddings, read_embeddings
from facegm.eval.sets.found_faces import FoundFaces, faces_of, packed_faces
from facegm.eval.sets.insightface_bin import PackedSet
from facegm.eval.sets.labelled_embeddings import known_faces, ready_embeddings
from facegm.store.format import is_store

ALIGNED = "aligned"
"""Folder in that of the report: the store of faces of photos."""


def verify_faces(
    model: Path,
    chosen: SetToVerify,
    faces: Path | PackedSet,
    output: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    processes: Processes | None = None,
    others: Path | None = None,
    is_to_calibrate: bool = False,
    note: str = "",
) -> VerificationReport | None:
    """Verify an exported embedder.

    Args:
        model: run folder or embedder file.
        chosen: what is to be verified.
        faces: folder of photos, a store of their aligned faces, or a packed set.
        output: folder of the report, of the embeddings, which are kept, and of the faces of photos.
        device: where the network runs; see `FaceEmbedder.load`.
        workers: worker processes of the alignment; None for as many as the machine has room for.
        processes: those that share the embedding; the first one aligns, scores and writes.
        others: store of aligned faces of other people, on which PLDA is fitted, as one more score.
        is_to_calibrate: whether to write into the embedder what its distances, and likelihoods, mean on this set.
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
    assert provenance.model_digest is not None
    cache = EmbeddingCache.of(embedder, provenance.model_digest, output)
    embeddings = embed_all(embedder, found.faces, cache, processes)
    known = None if others is None else known_faces(others)
    of_others = None if known is None else known.embedded(embed_all(embedder, known.faces, cache, processes))
    if processes.rank > 0:
        return None
    report = chosen.report(
        output,
        NamedEmbeddings(names=found.faces.names, embeddings=embeddings),
        face_of=found.faces.face,
        fallback_images=found.fallback_images,
        others=of_others,
        provenance=provenance,
        facts={"model": str(model), "photos": str(found.source), "embedding": embedder.describe()},
        note=note,
    )
    if is_to_calibrate:
        measured_on = f"{found.source.name}, {chosen.source.name}"
        calibration = embedder_calibration(
            next(one for one in report.verifications if one.variant == NO_PCA),
            report.pairs.same,
            report.pairs.fold,
            measured_on=measured_on,
        )
        thresholds = _likelihood_thresholds(embedder, found, embeddings, measured_on)
        write_calibration(embedder_file(model), calibration, thresholds)
    return report


def verify_embeddings(
    file: Path, chosen: SetToVerify, output: Path, *, others: Path | None = None
) -> VerificationReport:
    """Verify ready embeddings of anybody's model.

    Args:
        file: the embeddings.
        chosen: what is to be verified.
        output: folder of the report.
        others: embeddings of other people, each person's in a folder of their own, on which PLDA is fitted.

    Raises:
        FacegmError: a file is unusable, or embeddings are missing that must not be.
    """
    named = read_embeddings(file)
    facts = {"embeddings": str(file), "embedding": f"{len(named.names):,} of {named.embeddings.shape[1]} dimensions"}
    of_others = None if others is None else ready_embeddings(others)
    return chosen.report(output, named, others=of_others, facts=facts)


def _likelihood_thresholds(
    embedder: FaceEmbedder, found: FoundFaces, embeddings: Float[np.ndarray, "images dim"], measured_on: str
) -> tuple[LikelihoodThreshold, ...]:
    """By the likelihoods of the faces that were found, each image once; none of an embedder without class means."""
    if embedder.likelihood is None:
        return ()
    is_fallback = np.isin(found.faces.names, found.fallback_images)
    features = training_scale(embeddings[~is_fallback], is_mirrored=embedder.is_mirrored)
    return likelihood_thresholds(embedder.likelihood.score(features), measured_on=measured_on)


def _found(chosen: SetToVerify, faces: Path | PackedSet, output: Path, workers: int | None) -> FoundFaces:
    if isinstance(faces, PackedSet):
        return packed_faces(faces)
    return faces_of(faces, chosen.images, output / ALIGNED, workers=workers, allow_missing=chosen.allow_missing)
