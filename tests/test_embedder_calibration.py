"""The calibration that travels in an exported embedder: written, read back, used, and refused where it is unusable."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facegm import FaceEmbedder
from facegm.align.face import TEMPLATE
from facegm.align.found_face import Face, FaceQuality
from facegm.data.preprocessing import Preprocessing
from facegm.data.weights import digest_of, read_weights, write_weights
from facegm.embedding.calibration import Calibration, DistanceHistogram, MatchThreshold
from facegm.embedding.model_file import load_embedder, read_calibration, save_embedder, write_calibration
from facegm.errors import FacegmError
from facegm.models.face_network import FaceModelConfig, build_face_network

CALIBRATION = Calibration(
    measured_on="LFW",
    same=3000,
    different=3000,
    offset=6.0,
    slope=-5.0,
    cllr=0.3,
    minimum_cllr=0.28,
    calibration_error=0.01,
    thresholds=(
        MatchThreshold(false_match_rate=0.1, threshold=1.3, interval=(1.29, 1.31), false_matches=300),
        MatchThreshold(false_match_rate=0.001, threshold=0.9, interval=(None, 1.0), false_matches=3),
    ),
    histogram=DistanceHistogram(edges=(0.0, 1.0, 2.0), same=(2000, 1000), different=(10, 2990)),
)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = FaceModelConfig(width=0.1, embedding_dim=24)
    path = tmp_path / "embedder.safetensors"
    alignment = {"size": 128, "template": TEMPLATE.tolist()}
    save_embedder(path, build_face_network(config, 48), config, Preprocessing(face_size=64, crop_size=48), alignment)
    return path


def test_calibration_is_read_back_and_the_weights_stay_as_they_are(model_file: Path) -> None:
    tensors, before = read_weights(model_file)
    assert read_calibration(model_file) is None  # as in files of older versions
    assert FaceEmbedder.load(model_file).calibration is None
    write_calibration(model_file, CALIBRATION)
    write_calibration(model_file, replace(CALIBRATION, measured_on="another set"))
    write_calibration(model_file, CALIBRATION)
    assert read_calibration(model_file) == FaceEmbedder.load(model_file).calibration == CALIBRATION
    found, description = read_weights(model_file)
    assert digest_of(found) == digest_of(tensors)
    assert description is not None
    assert before is not None
    assert {key: value for key, value in json.loads(description).items() if key != "calibration"} == json.loads(before)
    load_embedder(model_file)
    assert [path.name for path in model_file.parent.iterdir()] == [model_file.name]


def test_a_calibration_of_an_earlier_version_has_no_histogram() -> None:
    older = {key: value for key, value in CALIBRATION.to_json().items() if key != "histogram"}
    assert Calibration.from_json(older) == replace(CALIBRATION, histogram=None)


def test_probability_is_bayes_rule_with_the_prior() -> None:
    ratio = np.exp(6 - 5 * 1.1)
    assert CALIBRATION.probability(1.1) == pytest.approx(ratio / (ratio + 1))
    assert CALIBRATION.probability(1.1, prior=0.001) == pytest.approx(ratio * 0.001 / (ratio * 0.001 + 0.999))
    steep = replace(CALIBRATION, slope=-1e6)
    assert (steep.probability(2.0), steep.probability(-2.0)) == (0, 1)
    for prior in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(FacegmError, match=r"prior .*: expected a probability above 0 and below 1"):
            CALIBRATION.probability(1.1, prior=prior)


def face_of(embedding: np.ndarray) -> Face:
    return Face(
        box=np.zeros(4),
        landmarks=np.zeros((5, 2)),
        probability=1.0,
        chip=np.zeros((128, 128, 3), np.uint8),
        quality=FaceQuality(residual=0.0, profile=0.0, sharpness=0.0, contrast=0.0),
        embedding=embedding,
    )


def test_two_faces_are_compared_by_the_calibration(model_file: Path) -> None:
    pair = np.zeros((2, 24), np.float32)
    pair[:, 0], pair[1, 1] = 1, 1  # at unit length sqrt(2 - sqrt 2) = 0.765 apart
    pair[1] /= np.sqrt(2)
    a, b = map(face_of, pair)
    plain = FaceEmbedder.load(model_file)
    assert plain.compare(a, b, threshold=0.7).probability is None
    with pytest.raises(FacegmError, match="has not been calibrated; give a threshold"):
        plain.compare(a, b, false_match_rate=0.1)
    write_calibration(model_file, replace(CALIBRATION, thresholds=(replace(CALIBRATION.thresholds[1], threshold=0.7),)))
    embedder = FaceEmbedder.load(model_file)
    found = embedder.compare(a, b, false_match_rate=0.001, prior=0.2)
    assert found.distance == pytest.approx(np.sqrt(2 - np.sqrt(2)))
    assert (found.same, found.threshold) == (False, 0.7)
    assert found.probability == pytest.approx(CALIBRATION.probability(found.distance, prior=0.2))
    assert embedder.compare(a, b, threshold=0.8).same is True
    with pytest.raises(FacegmError, match=r"false-match rate 0\.01: LFW gave thresholds of 0\.001; take one of those"):
        embedder.compare(a, b, false_match_rate=0.01)
    with pytest.raises(FacegmError, match="a threshold or a false-match rate, not both"):
        embedder.compare(a, b, threshold=1.0, false_match_rate=0.001)
    with pytest.raises(FacegmError, match="a face without an embedding"):
        embedder.compare(a, replace(b, embedding=None))


@pytest.mark.parametrize(
    ("rates", "expected"), [((0.1, 0.001, 0.0001), 0.001), ((0.1, 0.0001), 0.0001), ((0.01, 0.1), 0.01), ((), None)]
)
def test_the_models_own_threshold_is_taken_where_none_is_given(
    model_file: Path, rates: tuple[float, ...], expected: float | None
) -> None:
    """That of a false-match rate of 0.001, or of the smallest rate; each threshold is its rate here."""
    known = CALIBRATION.thresholds[0]
    thresholds = tuple(replace(known, false_match_rate=rate, threshold=rate) for rate in rates)
    write_calibration(model_file, replace(CALIBRATION, thresholds=thresholds))
    a, b = map(face_of, np.eye(24, dtype=np.float32)[:2])
    found = FaceEmbedder.load(model_file).compare(a, b)
    assert (found.threshold, found.same) == (expected, None if expected is None else False)
    assert found.probability == pytest.approx(CALIBRATION.probability(np.sqrt(2)))


@pytest.mark.parametrize(
    "damage",
    [
        {"slope": float("nan")},
        {"thresholds": 3},
        {"extra": 1},
        {"thresholds": [{"interval": [1]}]},
        {"histogram": [1]},
        {"histogram": {"edges": [0, 1, 2], "same": [1, 2], "different": [1]}},
        {"histogram": {"edges": [0, 2, 1], "same": [1, 2], "different": [1, 2]}},
        {"histogram": {"edges": [0], "same": [], "different": []}},
    ],
)
def test_an_unusable_calibration_is_named(model_file: Path, damage: dict[str, object]) -> None:
    write_calibration(model_file, CALIBRATION)
    tensors, description = read_weights(model_file)
    content = json.loads(description or "")
    write_weights(model_file, tensors, content | {"calibration": content["calibration"] | damage})
    with pytest.raises(FacegmError, match=r"embedder\.safetensors: this facegm cannot use the embedder's calibration"):
        read_calibration(model_file)


def test_other_files_are_not_calibrated(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match="no such model file"):
        write_calibration(tmp_path / "missing.safetensors", CALIBRATION)
    foreign = tmp_path / "foreign.safetensors"
    write_weights(foreign, {"weight": torch.zeros(2)}, {"kind": "detector"})
    before = foreign.read_bytes()
    with pytest.raises(FacegmError, match="cannot use the embedder"):
        write_calibration(foreign, CALIBRATION)
    assert foreign.read_bytes() == before
