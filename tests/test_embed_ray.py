"""Protects the embedding by Ray: the bytes of this machine's workers."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from alignment import InThisProcess
from embedders import HOPPER, save_small_embedder
from PIL import Image

from facegm.align import engines
from facegm.cli import main


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_makes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By actors that are told where model and photos lie, although they are in another working folder."""
    rng = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    with Image.open(HOPPER) as hopper:
        for number in range(70):
            image = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            if number % 8 == 0:
                image = hopper.resize((100 + number % 16, 120 + number % 7))
            image.save(tmp_path / f"photos/{number:03}.png")
    save_small_embedder(tmp_path / "model.safetensors")
    arguments = ["embed", "photos", "--model", "model.safetensors", "--workers", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(
        [sys.executable, "-m", "facegm", *arguments, "--engine", "ray", "--output", "ray.parquet"],
        cwd=tmp_path,
        check=True,
        env=environment | {"RAY_worker_niceness": "0"},  # else beside other work they would not begin in time
        timeout=500,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "LocalWorker", InThisProcess)
    assert main([*arguments, "--output", "local.parquet"]) == 0
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
