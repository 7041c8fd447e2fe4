"""The faces of a set to verify: in a store, in photos that are aligned first, or packed as insightface packs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegm.align.config import AlignConfig
from facegm.align.face import FACE_SIZE
from facegm.align.pipeline import align_photos
from facegm.data.readers.source import find_photos
from facegm.errors import FacegmError
from facegm.eval.sets.insightface_bin import PackedSet
from facegm.eval.sets.joining import join
from facegm.eval.sets.named_faces import NamedFaces
from facegm.store.format import is_store
from facegm.store.reader import FaceStore

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundFaces:
    """Aligned faces of images, and how they came to be."""

    source: Path
    """What they were asked of: photos, a store or a packed set."""
    faces: NamedFaces
    """By the names of the images."""
    fallback_images: tuple[str, ...] = ()
    """Images whose face was not found, so that the middle was taken."""
    settings: Mapping[str, Any]
    """How they were found, aligned and kept, as far as that is known."""


def faces_of(
    source: Path, images: Sequence[str], aligned: Path, *, workers: int | None = None, allow_missing: bool = False
) -> FoundFaces:
    """Open a store, or align photos into one.

    Args:
        source: folder of photos, or a store of their aligned faces.
        images: those that are wanted; suffixes, and a folder in front of all, make no difference.
        aligned: store to be made of photos; one that is there is brought into step.
        workers: worker processes of the alignment; None for as many as the machine has room for.
        allow_missing: whether images may be left out that are not there or cannot be read.

    Raises:
        FacegmError: there is no such folder, or an image of it is missing that must not be.
    """
    if not source.is_dir():
        raise FacegmError(f"{source}: no such folder of photos or aligned faces")
    store = FaceStore(source) if is_store(source) else _aligned(source, images, aligned, workers)
    rows = rows_of_images(store, images, allow_missing=allow_missing)
    statuses = store.table(["status"])["status"]
    return FoundFaces(
        source=source,
        faces=NamedFaces(store, rows),
        fallback_images=tuple(name for name, row in rows.items() if statuses[row].as_py() == "center-crop"),
        settings=store.settings,
    )


def packed_faces(packed: PackedSet) -> FoundFaces:
    """The faces of a packed set."""
    settings = {"source": str(packed.folder.resolve()), "size": FACE_SIZE, "detector": "none: aligned already"}
    rows = {name: row for row, name in enumerate(packed.keys)}
    return FoundFaces(source=packed.folder, faces=NamedFaces(packed, rows), settings=settings)


def rows_of_images(store: FaceStore, images: Sequence[str], *, allow_missing: bool = False) -> dict[str, int]:
    """Rows of a store's faces of images, whatever their suffix, by the images' names.

    Args:
        store: where to look.
        images: those that are wanted.
        allow_missing: whether images without a face are left out.

    Raises:
        FacegmError: none has a face, or one has not that must have.
    """
    found = _join(store.folder, images, store.keys)
    table = store.table(["status", "reason"])
    reasons = {name: "not in the store" for name in images if name not in found}
    reasons |= {
        name: table["reason"][row].as_py() for name, row in found.items() if table["status"][row].as_py() == "failed"
    }
    if reasons and (not allow_missing or len(reasons) == len(images)):
        raise FacegmError(
            f"{store.folder}: {len(reasons)} of the {len(images)} photos that the pairs name have no face, but every "
            f"pair must be scored; align with --on-missing center-crop, and mend unreadable photos: "
            + "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:_SHOWN])
        )
    return {name: row for name, row in found.items() if name not in reasons}


def _aligned(photos: Path, images: Sequence[str], output: Path, workers: int | None) -> FaceStore:
    """Align the photos that are wanted, whatever their suffix."""
    found = find_photos(photos).photos
    chosen = [found[row] for row in sorted(_join(photos, images, [photo.key for photo in found]).values())]
    config = AlignConfig(on_missing="center-crop", workers=workers, remove_missing=True)  # other pairs, other photos
    output.parent.mkdir(parents=True, exist_ok=True)
    align_photos(photos, output, config, photos=chosen)
    return FaceStore(output)


def _join(source: Path, images: Sequence[str], keys: Sequence[str]) -> dict[str, int]:
    """Rows of images.

    Raises:
        FacegmError: there is none of them.
    """
    rows = join(images, keys)
    if not rows:
        raise FacegmError(
            f"{source}: {images[0]}, which the pairs name, is not in this folder or store, with any suffix"
        )
    return rows
