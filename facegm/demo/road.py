"""The whole road on synthetic identities: photos, alignment, training, verification."""

import logging
from pathlib import Path

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.config import parse_config, shipped_configs
from facegm.demo.photos import write_pairs, write_photos
from facegm.eval.evaluation import VerificationReport
from facegm.eval.verify_lfw import verify_lfw
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import train_run

logger = logging.getLogger(__name__)

TRAINING_IDENTITIES, HELD_OUT_IDENTITIES, PHOTOS_PER_IDENTITY = 150, 50, 12
FOLDS, PAIRS_PER_CLASS = 10, 100
HELD_OUT, RUN = Path("photos", "held-out"), "run"
"""Where in the demo's folder the photos of people lie whom the model has not seen, and its run."""
NOTE = (
    f"These are synthetic identities: {HELD_OUT_IDENTITIES} warped and recoloured variations of bundled portraits, "
    "kept out of training. The numbers show that the road works, and say nothing about real faces."
)


def walk(folder: Path, *, seed: int) -> tuple[VerificationReport, Path]:
    """Make the photos, align them, train, and verify the identities that were kept out of training.

    Interrupted and called again, it goes on where it stopped.

    Args:
        folder: where photos, stores, the run and the report go.
        seed: draws the identities and the photos, and begins the training.

    Returns:
        The report of the held-out identities, and its HTML file.
    """
    training, held_out = folder / "photos" / "training", folder / HELD_OUT
    people = range(TRAINING_IDENTITIES + HELD_OUT_IDENTITIES)
    new, known = people[:TRAINING_IDENTITIES], people[TRAINING_IDENTITIES:]
    logger.info(f"1/4 photos of {len(people)} synthetic identities, {PHOTOS_PER_IDENTITY} each")
    write_photos(training, identities=new, photos_per_identity=PHOTOS_PER_IDENTITY, seed=seed)
    write_photos(held_out, identities=known, photos_per_identity=PHOTOS_PER_IDENTITY, seed=seed)
    write_pairs(
        held_out / "pairs.txt",
        identities=known,
        photos_per_identity=PHOTOS_PER_IDENTITY,
        folds=FOLDS,
        pairs_per_class=PAIRS_PER_CLASS,
        seed=seed,
    )

    logger.info("2/4 align the training identities")
    store, run = folder / "store", folder / RUN
    align_photos(training, store, AlignConfig())

    logger.info("3/4 train")
    config = parse_config(
        shipped_configs()["demo.yaml"], FaceRunConfig, [f"--data.store={store}", f"--train.seed={seed}"]
    )
    train_run(config, run)

    logger.info("4/4 align and verify the held-out identities, and calibrate the model by them")
    output = folder / "report"
    report = verify_lfw(run, held_out, output, is_to_calibrate=True, note=NOTE)
    return report, output / "report.html"
