"""Photos with and without faces, some of them damaged: for work that is stopped in its middle."""

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))


def make_mixed_photos(folder: Path, count: int) -> None:
    """Photos of one person: every third has a face, every tenth cannot be read."""
    rng = np.random.default_rng(7)
    (folder / "ann").mkdir(parents=True)
    with Image.open(HOPPER) as hopper:
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            if number % 3 == 0:
                image = hopper.resize((100 + number % 50, 120 + number % 40))
            image.save(folder / f"ann/{number:04}.png")
    for number in range(5, count, 10):
        path = folder / f"ann/{number:04}.png"
        os.truncate(path, path.stat().st_size // 2)
