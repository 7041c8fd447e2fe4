"""Photos, or a store of aligned faces, to a file of embedded faces; where it was interrupted, it goes on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.data.progress import Progress
from facegm.embedding.contract import EmbeddingContract
from facegm.embedding.embed_config import EmbedConfig
from facegm.embedding.embed_source import PhotosToEmbed, StoreToEmbed
from facegm.embedding.face_file import SUFFIXES, count_faces, read_description, write_faces
from facegm.embedding.face_parts import FaceParts, remove_leftovers
from facegm.embedding.face_table import description_of, schema
from facegm.embedding.likelihood import thresholds_to_json
from facegm.errors import UsageError
from facegm.store.format import is_store

FORMAT = 1
"""Of the description that a file of embedded faces carries."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedSummary:
    """What became of photos."""

    output: Path
    photos: int
    faces: int
    """Rows with an embedding."""
    reasons: Mapping[str, int]
    """Photos without a found face, by the code of why; see `facegm.embedding.reasons.Reason`."""
    contract: EmbeddingContract
    """Whose embeddings they are."""
    remarks: tuple[str, ...]
    """What the source holds beside photos, and doubts about whose faces they show."""

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "output": str(self.output),
            "photos": self.photos,
            "faces": self.faces,
            "reasons": dict(self.reasons),
            "contract": self.contract.to_json(),
            "remarks": list(self.remarks),
        }


def embed_photos(source: Path, model: Path, output: Path, config: EmbedConfig) -> EmbedSummary:
    """Embed the faces of photos into a file; see `facegm.embedding.face_table`.

    Args:
        source: photos, see `facegm.data.readers.source.find_photos`; or a store of aligned faces.
        model: run folder or file of the embedder.
        output: `.parquet` or `.npz`. One that the same embedding has made already is left as it is; what another one
            has made is replaced at the end.
        config: how.

    Raises:
        UsageError: an output of another kind, or options that say of a store how its faces are to be found.
        FacegmError: source or model are unusable, or `output` is something else, or what was interrupted there was
            another embedding.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{output}: give an --output that ends in {' or '.join(SUFFIXES)}")
    if output.is_dir():
        raise UsageError(f"{output}: a folder; give a file as --output")
    if is_store(source) and config != EmbedConfig(device=config.device):
        raise UsageError(
            f"{source}: a store, whose faces are found and chosen; how they are to be found, and by which workers, "
            "cannot be said"
        )
    found = StoreToEmbed(source, model, config.device) if is_store(source) else PhotosToEmbed(source, model, config)
    embedder = found.embedder
    description = {
        "format": FORMAT,
        "contract": embedder.contract.to_json(),
        "model": embedder.describe(),
        "false_alarms": None if embedder.likelihood is None else thresholds_to_json(embedder.likelihood.thresholds),
        "source": str(source.resolve()),
        **found.settings,
    }
    columns = schema(embedder.dim, description)
    parts_folder = output.with_name(f"{output.name}.parts")
    if output.exists() and read_description(output) == description_of(columns):
        logger.info(f"{output}: holds the embeddings of these photos already")
        remove_leftovers(parts_folder, columns)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with FaceParts(parts_folder, columns, photos=len(found), group=found.group) as parts:
            with Progress("embed", len(found), "photos", done=parts.done) as progress:
                for photos in found.rows(parts.done):
                    parts.add(photos)
                    progress.update(len(photos))
            write_faces(output, columns, parts.tables())
            parts.remove()
    counts = count_faces(output)
    return EmbedSummary(
        output=output,
        photos=len(found),
        faces=counts.faces,
        reasons=counts.reasons,
        contract=embedder.contract,
        remarks=found.remarks,
    )
