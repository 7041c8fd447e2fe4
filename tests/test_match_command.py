"""Protects `facegm match`: the distance of two photos' faces, the verdict by the model's threshold, the page."""

import json
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import CALIBRATION
from embedders import HOPPER, group, save_small_embedder
from pages import Page
from PIL import Image

from facegm import FaceEmbedder
from facegm.cli import main
from facegm.embedding.calibration import MatchThreshold
from facegm.embedding.match import match_photos
from facegm.embedding.model_file import write_calibration
from facegm.embedding.reasons import Reason, RefusedPhotoError

MEASURED = replace(
    CALIBRATION,
    thresholds=(
        MatchThreshold(false_match_rate=0.1, threshold=1.9, interval=(1.8, 1.95), false_matches=300),
        MatchThreshold(false_match_rate=0.001, threshold=1e-4, interval=(None, 1.0), false_matches=3),
    ),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person bright and dark; and beside a smaller face; and nobody."""
    root = tmp_path_factory.mktemp("photos")
    with Image.open(HOPPER) as hopper:
        large, small = hopper.resize((256, 300)), hopper.resize((128, 150))
    large.save(root / "bright.png")
    large.point(lambda value: value * 0.6).save(root / "<dark>.png")
    both = Image.new("RGB", (400, 300), "grey")
    both.paste(large, (0, 0))
    both.paste(small, (270, 150))
    both.save(root / "two.png")
    Image.new("RGB", (90, 60), "grey").save(root / "nobody.png")
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_embedder(tmp_path_factory.mktemp("plain") / "embedder.safetensors")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = save_small_embedder(tmp_path_factory.mktemp("calibrated") / "embedder.safetensors")
    write_calibration(model, MEASURED)
    return model


def matched(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["match", *map(str, arguments), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_two_photos_have_the_distance_of_their_embeddings_and_the_models_verdict(
    photos: Path, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [photos / "bright.png", photos / "<dark>.png"]
    a, b = FaceEmbedder.load(calibrated).embed(pair)
    distance = float(np.linalg.norm(a - b))
    assert distance > 0.01
    found = matched(capsys, *pair, "--model", calibrated, "--prior", 0.2)
    assert found["distance"] == pytest.approx(distance, abs=1e-5)
    assert (found["same"], found["threshold"], found["false_match_rate"]) == (False, 1e-4, 0.001)
    odds = exp(6 - 5 * distance) * 0.2 / 0.8
    assert found["probability"] == pytest.approx(odds / (1 + odds), rel=1e-4)
    assert [found[side]["path"] for side in "ab"] == list(map(str, pair))
    assert (found["a"]["width"], found["a"]["height"], len(found["a"]["faces"]), found["a"]["chosen"]) == (
        256,
        300,
        1,
        0,
    )
    assert matched(capsys, *pair, "--model", calibrated, "--false-match-rate", 0.1)["same"] is True
    assert matched(capsys, *pair, "--model", calibrated, "--threshold", 2)["same"] is True


def test_without_a_threshold_there_is_no_verdict_and_it_says_where_to_get_one(
    photos: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(photos / "bright.png"), str(photos / "<dark>.png"), "--model", str(plain)]
    found = matched(capsys, *pair)
    assert (found["same"], found["threshold"], found["probability"]) == (None, None, None)
    assert main(["match", *pair]) == 0
    said = capsys.readouterr().out
    assert "no verdict" in said
    assert "facegm verify --calibrate" in said
    assert main(["match", *pair, "--false-match-rate", "0.1"]) == 1
    assert "has not been calibrated; give a threshold" in capsys.readouterr().err


def test_photos_without_the_face_that_is_wanted_are_all_named(
    photos: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(photos / "nobody.png"), str(photos / "missing.png")]
    assert main(["match", *pair, "--model", str(plain), "--output", str(tmp_path / "page.html")]) == 1
    said = capsys.readouterr().err
    assert f"{pair[0]}: no face found" in said
    assert f"{pair[1]}: No such file or directory" in said
    assert not [*tmp_path.iterdir()]
    two = [str(photos / "bright.png"), str(photos / "two.png"), "--model", str(plain)]
    assert main(["match", *two, "--policy", "only"]) == 1
    assert "two.png: 2 faces, where there must be only one" in capsys.readouterr().err


def test_the_largest_face_and_the_largest_central_one_are_told_apart(
    photos: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(group()).save(tmp_path / "group.png")
    pair = [photos / "bright.png", tmp_path / "group.png", "--model", plain]
    for policy, middle in (("largest-central", 350), ("largest", 120)):
        photo = matched(capsys, *pair, "--policy", policy)["b"]
        left, _, right, _ = photo["faces"][photo["chosen"]]["box"]
        assert left < middle < right


def test_a_refusal_has_its_reason_for_programs(photos: Path, plain: Path) -> None:
    embedder = FaceEmbedder.load(plain)
    with pytest.raises(RefusedPhotoError, match=r"nobody\.png: no face found") as refused:
        match_photos(embedder, photos / "bright.png", photos / "nobody.png")
    assert refused.value.reason == Reason.NO_FACE
    with pytest.raises(RefusedPhotoError, match=r"two\.png: 2 faces") as refused:
        match_photos(embedder, photos / "two.png", photos / "nobody.png", policy="only")
    assert refused.value.reason == Reason.SEVERAL_FACES


def test_the_page_stands_alone_and_shows_photos_boxes_and_chips(
    photos: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "page.html"
    pair = [str(photos / "<dark>.png"), str(photos / "two.png")]
    assert main(["match", *pair, "--model", str(calibrated), "--output", str(output)]) == 0
    assert f"page: {output}" in capsys.readouterr().out
    source = output.read_text()
    page = Page.of(source)
    assert [page.tags.count(tag) for tag in ("svg", "image", "img", "rect")] == [2, 2, 2, 3]
    assert source.count('class="chosen"') == 2
    assert "No match" in page.text
    assert "<dark>.png" in page.text
