"""A folder in which a reader of the manual tries its examples: photos, a store, a trained and calibrated run."""

from pathlib import Path
from shutil import copyfile, copytree

import numpy as np
from face_runs import small_config, write_pairs
from onnx_models import write_outside_model

from facegm.demo.photos import write_photos
from facegm.embedding.calibration import Calibration, MatchThreshold
from facegm.embedding.model_file import MODEL_FILE, write_calibration
from facegm.faces.run import train_run

PEOPLE = ("Ann", "Bob", "Cleo")
HELD_OUT = range(150, 150 + len(PEOPLE))
"""The demo's numbers of those people: the first that it keeps out of training."""
PHOTOS = 4
CALIBRATION = Calibration(
    measured_on="people who are not there",
    same=3000,
    different=3000,
    offset=8.0,
    slope=-8.0,
    cllr=0.4,
    minimum_cllr=0.4,
    calibration_error=0.01,
    thresholds=tuple(
        MatchThreshold(
            false_match_rate=rate, threshold=threshold, interval=(None, None), false_matches=int(3000 * rate)
        )
        for rate, threshold in ((0.1, 1.1), (0.01, 0.9), (0.001, 0.7))
    ),
)
"""Numbers of no network: what the examples say is not looked at."""


def furnish(folder: Path, store: Path) -> None:
    """Put what the manual's examples name into a folder.

    Args:
        folder: empty.
        store: the fixture `small_store`, on which the network is trained for a moment.
    """
    demo, run = folder / "facegm-demo" / "seed-0", folder / "runs" / "casia"
    held_out = demo / "photos" / "held-out"
    write_photos(held_out, identities=HELD_OUT, photos_per_identity=PHOTOS, seed=0)
    for person, identity in zip(PEOPLE, sorted(held_out.iterdir()), strict=True):
        photos = folder / "photos" / person
        photos.mkdir(parents=True)
        for number, photo in enumerate(sorted(identity.iterdir()), start=1):
            copyfile(photo, photos / f"{number}.jpg")
            copyfile(photo, folder / f"{person.lower()}-{number}.jpg")
        copyfile(photos / "1.jpg", folder / f"{person.lower()}.jpg")
    copytree(folder / "photos", folder / "people")
    for name, source in {"a": "ann-1", "b": "ann-2", "who": "ann-3"}.items():
        copyfile(folder / f"{source}.jpg", folder / f"{name}.jpg")
    copytree(store, folder / "stores" / "casia")
    train_run(small_config(folder / "stores" / "casia", epochs=1.0), run)
    write_calibration(run / MODEL_FILE, CALIBRATION)
    copytree(run, demo / "run")
    _write_embeddings(folder)


def _write_embeddings(folder: Path) -> None:
    """Pairs of the store's people, and embeddings of theirs, and a network, as another program may have made them."""
    write_pairs(folder / "pairs.txt")
    write_outside_model(folder / "theirs.onnx")
    names = [f"person_{person}/person_{person}_{photo:04d}.jpg" for person in range(6) for photo in range(1, 9)]
    embeddings = np.random.default_rng(0).normal(size=(len(names), 16))
    np.savez(folder / "theirs.npz", paths=names, embeddings=embeddings)
