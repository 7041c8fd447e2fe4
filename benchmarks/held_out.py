"""Identities held out of a store for the choice of settings: their faces, and pairs in LFW's format."""

from itertools import combinations
from pathlib import Path

import numpy as np

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.store.faces import place_of
from facegm.store.format import StoreFormat
from facegm.store.reader import FaceStore

IDENTITIES, FOLDS, PAIRS = 60, 10, 150
"""Identities held out; folds, which share no identity; pairs of each kind in a fold."""


def hold_out(store: Path, folder: Path) -> list[str]:
    """Make `folder/store` and `folder/pairs.txt`, or what is missing of them, and return the identities held out.

    Args:
        store: aligned faces in a folder of files.
        folder: where to.
    """
    faces = FaceStore(store)
    keys: dict[str, list[str]] = {}
    numbers, names = faces.identities()
    for row in np.flatnonzero(numbers >= 0).tolist():
        keys.setdefault(names[numbers[row]], []).append(faces.keys[row])
    rng = np.random.default_rng(0)
    chosen = [str(name) for name in rng.permutation(sorted(keys))[:IDENTITIES]]
    for identity in chosen:
        (folder / "faces" / identity).mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(keys[identity], start=1):
            link = folder / "faces" / identity / f"{identity}_{number:04}.jpg"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(place_of(store, StoreFormat(), key, None, 0, -1).path).resolve())
    align_photos(folder / "faces", folder / "store", AlignConfig(is_aligned=True, remove_missing=True))
    lines = [f"{FOLDS}\t{PAIRS}"]
    for fold in np.array_split(chosen, FOLDS):
        counts = {str(name): len(keys[str(name)]) for name in fold}
        same = [(name, a, b) for name, count in counts.items() for a, b in combinations(range(1, count + 1), 2)]
        lines += ["\t".join(map(str, same[k])) for k in rng.choice(len(same), PAIRS, replace=False)]
        for _ in range(PAIRS):
            a, b = rng.choice(sorted(counts), 2, replace=False)
            lines.append(f"{a}\t{rng.integers(counts[a]) + 1}\t{b}\t{rng.integers(counts[b]) + 1}")
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return chosen
