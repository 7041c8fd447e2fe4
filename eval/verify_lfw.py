"""The LFW evaluation from photos to report: align what the pairs name, embed, score."""

from collections.abc import Sequence
from pathlib import Path

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.data.readers.source import find_photos
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.evaluation import VerificationReport, evaluate
from facegm.eval.joining import join
from facegm.eval.pairs import Pairs, read_pairs
from facegm.eval.provenance import provenance_of
from facegm.eval.report import write_report
from facegm.eval.stored_faces import StoredFaces
from facegm.store.format import is_store
from facegm.store.reader import FaceStore

PAIRS_FILE = "pairs.txt"


def verify_lfw(
    model: Path,
    lfw: Path,
    output: Path,
    *,
    pairs_file: Path | None = None,
    workers: int | None = None,
    note: str = "",
) -> VerificationReport:
    """Verify all pairs of an LFW-like set with an exported embedder, and write `report.json` and `report.html`.

    Args:
        model: run folder or embedder file.
        lfw: photos `Name/Name_0001.jpg`, or a store of their aligned faces.
        output: folder of the report and, where `lfw` holds photos, of their aligned faces.
        pairs_file: the protocol file; None for `pairs.txt` in the photos' folder or in the one above.
        workers: worker processes of the alignment; None for as many as the machine has room for.
        note: one line that the report shows beside the numbers.

    Raises:
        FacegmError: model, photos or pairs are missing or unusable, the pairs have one fold alone, or a photo of theirs
            cannot be read.
    """
    embedder = FaceEmbedder.load(model)
    if not lfw.is_dir():
        raise FacegmError(f"{lfw}: no such folder of photos or aligned faces")
    pairs_file = pairs_file or find_pairs(lfw)
    pairs = read_pairs(pairs_file)
    pairs.require_folds(str(pairs_file))
    output.mkdir(parents=True, exist_ok=True)
    store = FaceStore(lfw) if is_store(lfw) else _aligned(lfw, pairs, output / "aligned", workers)
    rows = rows_of_images(store, pairs)
    faces = StoredFaces(store, rows)
    statuses = store.table(["status"])["status"]

    report = evaluate(
        pairs,
        faces.names,
        embedder.embed_aligned(faces, progress=True),
        face_of=faces.face,
        fallback_images=[name for name, row in rows.items() if statuses[row].as_py() == "center-crop"],
        provenance=provenance_of(model, store.settings, pairs),
        facts={"model": str(model), "photos": str(lfw), "pairs": str(pairs_file), "embedding": embedder.describe()},
        note=note,
    )
    write_report(output, report, face_of=faces.face)
    return report


def find_pairs(lfw: Path) -> Path:
    """The pairs file of a set.

    Raises:
        FacegmError: there is none in its folder or in the one above.
    """
    for folder in (lfw, lfw.parent):
        if (folder / PAIRS_FILE).is_file():
            return folder / PAIRS_FILE
    raise FacegmError(f"{lfw}: no {PAIRS_FILE} here or in the folder above; give --pairs FILE")


def _aligned(lfw: Path, pairs: Pairs, output: Path, workers: int | None) -> FaceStore:
    """Align the photos that the pairs name, whatever their suffix."""
    photos = find_photos(lfw).photos
    chosen = [photos[row] for row in sorted(_join(lfw, pairs, [photo.key for photo in photos]).values())]
    config = AlignConfig(on_missing="center-crop", workers=workers, remove_missing=True)  # other pairs, other photos
    align_photos(lfw, output, config, photos=chosen)
    return FaceStore(output)


def _join(source: Path, pairs: Pairs, keys: Sequence[str]) -> dict[str, int]:
    """Rows of the images of the pairs.

    Raises:
        FacegmError: there is none of them.
    """
    rows = join(pairs.images, keys)
    if not rows:
        name = pairs.images[0]
        raise FacegmError(f"{source}: {name}, which the pairs name, is not in this folder or store, with any suffix")
    return rows


def rows_of_images(store: FaceStore, pairs: Pairs) -> dict[str, int]:
    """Rows of a store's faces of all images that the pairs name, whatever their suffix, by their names.

    Raises:
        FacegmError: a face is missing.
    """
    found = _join(store.folder, pairs, store.keys)
    rows = {name: found.get(name) for name in pairs.images}
    table = store.table(["status", "reason"])
    reasons = {
        name: "not in the store" if row is None else table["reason"][row].as_py()
        for name, row in rows.items()
        if row is None or table["status"][row].as_py() == "failed"
    }
    if reasons:
        raise FacegmError(
            f"{store.folder}: {len(reasons)} of the {len(rows)} photos that the pairs name have no face, but every "
            f"pair must be scored; align with --on-missing center-crop, and mend unreadable photos: "
            + "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:5])
        )
    return {name: row for name, row in rows.items() if row is not None}
