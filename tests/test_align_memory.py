"""Protects the memory of a worker: large photos among small ones, turned or not, stay within a bound."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stores import NamedFaces

from facegm.data.machine import ALIGNER_MEMORY

HOPPER = Path(str(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"))
ORIENTATION = 0x0112

SCRIPT = """
import resource, sys
from facegm import cli

if __name__ == "__main__":  # which spawned workers are not
    assert cli.main(["align", sys.argv[1], "--output", sys.argv[2], "--workers=1"]) == 0
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in other units")
def test_a_worker_stays_within_its_memory_on_48_megapixel_photos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((8000, 6000), Image.Resampling.BICUBIC)
    with Image.open(HOPPER) as hopper:
        large.paste(hopper.resize((1024, 1200)), (3000, 2000))
        for number in range(20):
            hopper.resize((100, 100)).save(photos / f"{number:02} small.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for number in range(0, 16, 4):
        large.save(photos / f"{number:02} upright.jpg", quality=85)
        large.transpose(Image.Transpose.ROTATE_90).save(photos / f"{number + 1:02} turned.jpg", quality=85, exif=exif)

    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(photos), str(tmp_path / "store")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    peak = int(ran.stderr.split()[-1]) * 1024
    # The libraries alone take half of it.
    assert 2**28 < peak < ALIGNER_MEMORY, f"{peak / 2**20:.0f} MiB"
    records = NamedFaces(tmp_path / "store").records
    assert [key for key, record in records.items() if "small" not in key and record.status != "aligned"] == []
