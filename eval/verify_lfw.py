"""The LFW evaluation, a preset of `facegm.eval.verify`: where its pairs lie, and all of them scored."""

from pathlib import Path

from facegm.errors import FacegmError
from facegm.eval.evaluation import VerificationReport
from facegm.eval.set_to_verify import read_set
from facegm.eval.verify import verify_faces

PAIRS_FILE = "pairs.txt"


def verify_lfw(
    model: Path,
    lfw: Path,
    output: Path,
    *,
    pairs_file: Path | None = None,
    workers: int | None = None,
    is_to_calibrate: bool = False,
    note: str = "",
) -> VerificationReport:
    """Verify all pairs of an LFW-like set with an exported embedder, and write `report.json` and `report.html`.

    Args:
        model: run folder or embedder file.
        lfw: photos `Name/Name_0001.jpg`, or a store of their aligned faces.
        output: folder of the report, of the embeddings and, where `lfw` holds photos, of their aligned faces.
        pairs_file: the protocol file; None for `pairs.txt` in the photos' folder or in the one above.
        workers: worker processes of the alignment; None for as many as the machine has room for.
        is_to_calibrate: whether to write into the embedder what its distances mean on this set.
        note: one line that the report shows beside the numbers.

    Raises:
        FacegmError: model, photos or pairs are missing or unusable, the pairs have one fold alone, or a photo of theirs
            cannot be read.
    """
    chosen = read_set(pairs_file or find_pairs(lfw))
    report = verify_faces(model, chosen, lfw, output, workers=workers, is_to_calibrate=is_to_calibrate, note=note)
    assert report is not None
    return report


def find_pairs(lfw: Path) -> Path:
    """The pairs file of a set.

    Raises:
        FacegmError: there is no such folder, or no pairs file in it or in the one above.
    """
    if not lfw.is_dir():
        raise FacegmError(f"{lfw}: no such folder of photos or aligned faces")
    for folder in (lfw, lfw.parent):
        if (folder / PAIRS_FILE).is_file():
            return folder / PAIRS_FILE
    raise FacegmError(f"{lfw}: no {PAIRS_FILE} here or in the folder above; give --pairs FILE")
