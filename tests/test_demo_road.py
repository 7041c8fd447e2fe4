"""The whole road on synthetic identities, as `make demo` walks it."""

import json
from pathlib import Path

import pytest
from stores import NamedFaces

from facegm import FaceEmbedder
from facegm.cli import main


@pytest.mark.slow
def test_demo_learns_to_verify_people_it_has_not_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "synthetic identities" in shown
    folder = tmp_path / "seed-0"
    numbers = json.loads((folder / "report" / "report.json").read_text())
    assert numbers["pairs"]["count"] == 2000
    assert numbers["variants"][0]["accuracy"] > numbers["baseline"]["accuracy"] + 0.1
    trained = {record.identity for record in NamedFaces(folder / "store").records.values()}
    held_out = {path.name for path in (folder / "photos" / "held-out").iterdir() if path.is_dir()}
    assert (len(trained), len(held_out)) == (150, 50)
    assert not trained & held_out
    calibration = FaceEmbedder.load(folder / "run").calibration
    assert calibration is not None
    assert (calibration.same, calibration.different) == (1000, 1000)
    assert f"facegm serve {folder / 'run'} --gallery" in shown
    assert main(["demo", "--output", str(tmp_path)]) == 0, "walked again, it finds everything done"
