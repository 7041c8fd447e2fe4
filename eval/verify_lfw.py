"""The LFW evaluation from photos to report: align what the pairs name, embed, score."""

from pathlib import Path

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.data.find_photos import Photo
from facegm.data.store import FaceRecord, FaceStore, is_store
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.lfw import VerificationReport, evaluate_lfw
from facegm.eval.pairs import Pairs, read_pairs
from facegm.eval.report import write_report

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
        workers: worker processes of the alignment; None for as many as this machine has room for.
        note: one line that the report shows beside the numbers.

    Raises:
        FacegmError: model, photos or pairs are missing or unusable, or a photo of the pairs cannot be read.
    """
    embedder = FaceEmbedder.load(model)
    if not lfw.is_dir():
        raise FacegmError(f"{lfw}: no such folder of photos or aligned faces")
    pairs_file = pairs_file or _find_pairs(lfw)
    pairs = read_pairs(pairs_file)
    output.mkdir(parents=True, exist_ok=True)
    store = FaceStore(lfw) if is_store(lfw) else _aligned(lfw, pairs, output / "aligned", workers)
    records = records_of_pairs(store, pairs)
    faces = {name: store.read_face(record.key) for name, record in records.items()}

    report = evaluate_lfw(
        pairs,
        list(faces),
        embedder.embed_aligned(list(faces.values()), progress=True),
        face_of=faces.__getitem__,
        fallback_images=[name for name, record in records.items() if record.status == "center-crop"],
        facts={"model": str(model), "photos": str(lfw), "pairs": str(pairs_file), "embedding": embedder.describe()},
        note=note,
    )
    write_report(output, report, face_of=faces.__getitem__)
    return report


def _find_pairs(lfw: Path) -> Path:
    for folder in (lfw, lfw.parent):
        if (folder / PAIRS_FILE).is_file():
            return folder / PAIRS_FILE
    raise FacegmError(f"{lfw}: no {PAIRS_FILE} here or in the folder above; give --pairs FILE")


def _aligned(lfw: Path, pairs: Pairs, output: Path, workers: int | None) -> FaceStore:
    """Align the photos that the pairs name."""
    root = next((root for root in (lfw, *sorted(lfw.iterdir())) if (root / pairs.images[0]).is_file()), None)
    if root is None:
        raise FacegmError(f"{lfw}: {pairs.images[0]}, which the pairs name, is not in this folder or one below")
    photos = [Photo(path=root / name, key=name, identity=Path(name).parent.name) for name in pairs.images]
    align_photos(root, output, AlignConfig(on_missing="center-crop", workers=workers), photos=photos)
    return FaceStore(output)


def _prefix(store: FaceStore, name: str) -> str:
    """A store made of a folder above the photos' names them with that folder in front."""
    found = next((key for key in store.records if key == name or key.endswith("/" + name)), None)
    if found is None:
        raise FacegmError(f"{store.folder}: {name}, which the pairs name, is not in this store")
    return found.removesuffix(name)


def records_of_pairs(store: FaceStore, pairs: Pairs) -> dict[str, FaceRecord]:
    """What a store records of the aligned faces of all images that the pairs name, by their names.

    Raises:
        FacegmError: a face is missing.
    """
    prefix = _prefix(store, pairs.images[0])
    found = {name: store.records.get(prefix + name) for name in pairs.images}
    records = {name: record for name, record in found.items() if record is not None and record.has_face_image}
    missing = [
        f"{name}: {'not in the store' if record is None else record.reason}"
        for name, record in found.items()
        if name not in records
    ]
    if missing:
        raise FacegmError(
            f"{store.folder}: {len(missing)} of the {len(found)} photos that the pairs name have no face, but every "
            f"pair must be scored; align with --on-missing center-crop, and mend unreadable photos: "
            + "; ".join(missing[:5])
        )
    return records
