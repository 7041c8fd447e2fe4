"""Protects the likelihood that an embedder carries: scores, thresholds, and how both travel in the model file."""

import json
import logging
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import MODEL, SMALL, small_config, write_pairs
from stores import NamedFaces

from facegm.align.face import TEMPLATE
from facegm.align.found_face import Face, FaceQuality
from facegm.cli import main
from facegm.data.weights import digest_of, read_weights, write_weights
from facegm.embedding import embedder
from facegm.embedding import likelihood as embedding_likelihood
from facegm.embedding.embedder import FaceEmbedder
from facegm.embedding.likelihood import (
    ClassLikelihood,
    LikelihoodThreshold,
    thresholds_to_json,
    training_scale,
    usual_false_alarm_rate,
)
from facegm.embedding.model_file import (
    load_embedder,
    read_calibration,
    read_likelihood,
    save_embedder,
    weights_digest,
    write_calibration,
)
from facegm.embedding.photo_faces import PhotoFaces
from facegm.errors import FacegmError
from facegm.eval.likelihood import likelihood_thresholds
from facegm.faces import class_means as face_class_means
from facegm.faces.run import train_run
from facegm.faces.unfinished import export_newest
from facegm.losses.config import LossConfig
from facegm.models.face_network import build_face_network
from facegm.store.format import MANIFEST_FILE, manifest_writer, to_table
from facegm.training.checkpoint import load_newest_checkpoint

DIM = MODEL.embedding_dim
ALIGNMENT = {"size": 128, "template": TEMPLATE.tolist()}


def plain_scores(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """In float64, one face and one class at a time."""
    x, mu = features.astype(np.float64), means.astype(np.float64)
    return np.array([max(-sum((face - mean) ** 2) / 2 for mean in mu) for face in x])


def write_model(path: Path, means: np.ndarray | None) -> Path:
    torch.manual_seed(0)
    carried = None if means is None else torch.from_numpy(means)
    save_embedder(path, build_face_network(MODEL, 48), MODEL, SMALL, ALIGNMENT, carried)
    return path


def some_means(seed: int = 0, identities: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(identities, DIM)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("is_mirrored", [True, False])
@pytest.mark.parametrize("numbers", [1, 30, 2**24])
def test_a_score_is_the_log_likelihood_under_the_nearest_class(
    is_mirrored: bool, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of embeddings as an embedder gives them, in parts of any size."""
    monkeypatch.setattr(embedding_likelihood, "_NUMBERS", numbers)
    rng, means = np.random.default_rng(1), 3 + some_means()
    sides = 3 + rng.normal(size=(2, 20, DIM)).astype(np.float32)
    embeddings = sides[0] + sides[1] if is_mirrored else sides[0]
    found = ClassLikelihood(means=means).judge(embeddings, is_mirrored=is_mirrored)
    expected = plain_scores(sides.astype(np.float64).mean(axis=0) if is_mirrored else sides[0], means)
    np.testing.assert_allclose(found.likelihood, expected, rtol=1e-6)
    assert found.is_abnormal is None


def test_no_faces_have_no_scores_and_threads_and_processes_may_share_it() -> None:
    likelihood = pickle.loads(pickle.dumps(ClassLikelihood(means=some_means())))
    assert likelihood.score(np.empty((0, DIM), np.float32)).shape == (0,)


# ------------------------------------------------------------------------------------------------ thresholds


def at_most(below: int, share: float, count: int) -> float:
    """Probability that no more than `below` of `count` independent numbers lie below the quantile of a share."""
    return sum(comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(below + 1))


@pytest.mark.parametrize(
    ("faces", "rates"),
    [(9, []), (10, [0.1]), (99, [0.1, 0.05]), (500, [0.1, 0.05, 0.01]), (1000, [0.1, 0.05, 0.01, 0.001])],
)
def test_thresholds_are_quantiles_with_intervals_by_order_statistics(faces: int, rates: list[float]) -> None:
    scores = -np.random.default_rng(2).gamma(8, size=faces)
    found, ordered = likelihood_thresholds(scores, measured_on="a set"), sorted(scores)
    assert [one.false_alarm_rate for one in found] == rates
    for one in found:
        allowed = max(k for k in range(faces) if k / faces <= one.false_alarm_rate + 1e-12)
        assert one.threshold == ordered[allowed]
        assert one.false_alarms == sum(score < one.threshold for score in scores) == allowed
        assert (one.faces, one.measured_on) == (faces, "a set")
        lowest, highest = (-1 if end is None else ordered.index(end) for end in one.interval)
        # with 2.5 % at most do so few lie below the quantile that it is under the interval, or so many that it is over
        assert at_most(lowest, one.false_alarm_rate, faces) <= 0.025 < at_most(lowest + 1, one.false_alarm_rate, faces)
        assert (
            at_most(highest - 1, one.false_alarm_rate, faces) < 0.975 <= at_most(highest, one.false_alarm_rate, faces)
        )


def threshold(rate: float, value: float, **changed: Any) -> LikelihoodThreshold:
    one = LikelihoodThreshold(
        false_alarm_rate=rate, threshold=value, interval=(None, value + 1), false_alarms=5, faces=500, measured_on="LFW"
    )
    return replace(one, **changed)


def test_abnormal_is_below_the_threshold_of_the_rate() -> None:
    means = np.zeros((1, 2), np.float32)
    likelihood = ClassLikelihood(
        means=means, thresholds=(threshold(0.1, -2.0), threshold(0.01, -8.0)), false_alarm_rate=0.1
    )
    lengths = np.array([1.9, 2.0, 2.1, 3.9, 4.0, 4.1])
    embeddings = np.stack([2 * lengths, 0 * lengths], axis=1)  # of both sides: -length^2 / 2
    judged = likelihood.judge(embeddings, is_mirrored=True)
    np.testing.assert_allclose(judged.likelihood, -(lengths**2) / 2)
    assert judged.is_abnormal is not None
    assert judged.is_abnormal.tolist() == [False, False, True, True, True, True]
    assert likelihood.is_abnormal(judged.likelihood, 0.01).tolist() == [False] * 5 + [True]
    with pytest.raises(
        FacegmError, match=r"false-alarm rate 0\.05: LFW gave thresholds of 0\.1, 0\.01; take one of th"
    ):
        likelihood.is_abnormal(judged.likelihood, 0.05)
    with pytest.raises(FacegmError, match=r"has not been calibrated; `facegm verify --calibrate` does it"):
        ClassLikelihood(means=means).is_abnormal(judged.likelihood, 0.1)


@pytest.mark.parametrize(("rates", "expected"), [([], None), ([0.1, 0.05], 0.05), ([0.1, 0.05, 0.01, 0.001], 0.01)])
def test_the_usual_rate_is_one_in_a_hundred_where_there_were_faces_enough(
    rates: list[float], expected: float | None
) -> None:
    assert usual_false_alarm_rate([threshold(rate, -1.0) for rate in rates]) == expected


# ------------------------------------------------------------------------------------------------ the file


def test_means_are_read_back_and_change_no_digest(tmp_path: Path) -> None:
    """Else all that is kept by a model's digest, such as embeddings, would be made anew."""
    means = some_means()
    plain = write_model(tmp_path / "plain.safetensors", None)
    carrying = write_model(tmp_path / "carrying.safetensors", means)
    assert weights_digest(carrying) == weights_digest(plain) == digest_of(read_weights(plain).tensors)
    assert digest_of(load_embedder(carrying)[0].state_dict()) == weights_digest(plain)
    assert read_likelihood(plain) is FaceEmbedder.load(plain).likelihood is None
    for found in (read_likelihood(carrying), FaceEmbedder.load(carrying).likelihood):
        assert found is not None
        np.testing.assert_array_equal(found.means, means)
        assert found.thresholds == ()


@pytest.mark.parametrize(
    ("means", "message"),
    [
        (some_means()[:, :-1], rf"class means of shape \[7, {DIM - 1}\] to embeddings of {DIM}"),
        (some_means()[:0], r"class means of shape \[0"),
        (some_means()[0], r"class means of shape \[16\]"),
        (np.full((2, DIM), np.nan, np.float32), r"not finite in likelihood\.means"),
    ],
)
def test_unusable_means_are_named(tmp_path: Path, means: np.ndarray, message: str) -> None:
    file = write_model(tmp_path / "embedder.safetensors", None)
    tensors, description = read_weights(file)
    write_weights(file, tensors | {"likelihood.means": torch.from_numpy(means)}, json.loads(description or ""))
    with pytest.raises(FacegmError, match=rf"embedder\.safetensors: .*{message}"):
        FaceEmbedder.load(file)


@pytest.mark.parametrize(
    "damage",
    [3, {"thresholds": 3}, {"thresholds": [{"interval": [1]}]}, {"thresholds": [asdict(threshold(0.1, float("nan")))]}],
)
def test_unusable_thresholds_are_named(tmp_path: Path, damage: object) -> None:
    file = write_model(tmp_path / "embedder.safetensors", some_means())
    tensors, description = read_weights(file)
    write_weights(file, tensors, json.loads(description or "") | {"likelihood": damage})
    with pytest.raises(FacegmError, match=r"embedder\.safetensors: this facegm cannot use the embedder's likelihood"):
        read_likelihood(file)


# ------------------------------------------------------------------------------------------------ calibrating


def chip_scores(model: Path, chips: Sequence[np.ndarray] | np.ndarray, means: np.ndarray) -> np.ndarray:
    """Of aligned faces, by the network itself, in float64."""
    network, preprocessing, _ = load_embedder(model)
    crops = preprocessing.middle_crops(chips)
    images = (torch.from_numpy(crops).permute(0, 3, 1, 2).double() - 127.5) / 128
    with torch.no_grad():
        sides = [network.double()(side).numpy() for side in (images, images.flip(3))]
    return plain_scores(np.mean(sides, axis=0), means)


def test_calibrating_takes_each_face_that_was_found_once(small_store: Path, tmp_path: Path) -> None:
    """The three least likely faces are fallback crops here, of which nothing is to be learnt."""
    means, store = some_means(), tmp_path / "store"
    model, pairs = write_model(tmp_path / "embedder.safetensors", means), write_pairs(tmp_path / "pairs.txt")
    faces = NamedFaces(small_store)
    names = [key for key, record in faces.records.items() if record.status != "failed"]
    chips = [faces.face(key) for key in names]
    scores = dict(zip(names, chip_scores(model, chips, means).tolist(), strict=True))
    fallbacks = sorted(scores, key=lambda key: scores[key])[:3]
    shutil.copytree(small_store, store)
    rows = [
        row | ({"status": "center-crop"} if row["key"] in fallbacks else {})
        for row in NamedFaces(store).table().to_pylist()
    ]
    (store / MANIFEST_FILE).unlink()
    with manifest_writer(store) as writer:
        writer.write_table(to_table(rows))

    given = [model, "--photos", store, "--pairs", pairs, "--output", tmp_path / "report", "--calibrate"]
    assert main(["verify", *map(str, given)]) == 0
    likelihood, ordered = FaceEmbedder.load(model).likelihood, sorted(set(scores.values()))[3:]
    assert likelihood is not None
    assert [one.false_alarm_rate for one in likelihood.thresholds] == [0.1, 0.05]
    assert {one.faces for one in likelihood.thresholds} == {45}
    assert {one.measured_on for one in likelihood.thresholds} == {"store, pairs.txt"}
    assert [one.threshold for one in likelihood.thresholds] == pytest.approx([ordered[4], ordered[2]], rel=1e-5)
    np.testing.assert_array_equal(likelihood.means, means)

    plain, calibration = write_model(tmp_path / "plain.safetensors", None), read_calibration(model)
    assert calibration is not None
    write_calibration(plain, calibration)
    assert read_likelihood(plain) is None
    assert "likelihood" not in json.loads(read_weights(plain).description or "")


# ------------------------------------------------------------------------------------------------ faces


def found_faces(chips: np.ndarray) -> list[Face]:
    """As if they were found in photos."""
    quality = FaceQuality(residual=0, profile=0, sharpness=0, contrast=0)
    placed: dict[str, Any] = {"box": np.zeros(4), "landmarks": np.zeros((5, 2)), "probability": 1.0, "quality": quality}
    return [Face(chip=chip, **placed) for chip in chips]


def test_faces_are_judged_at_the_rate_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their likelihood under the network itself, in float64; without thresholds or means nothing is said of them."""
    means, chips = some_means(), np.random.default_rng(3).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    file = write_model(tmp_path / "embedder.safetensors", means)
    expected = chip_scores(file, chips, means)
    monkeypatch.setattr(embedder, "find_faces", lambda _, batch: [PhotoFaces(name="p", faces=batch, size=(9, 9))])
    monkeypatch.setattr(embedder, "decoded_ahead", lambda _: [tuple(found_faces(chips))])

    def judged(**options: Any) -> tuple[list[float | None], list[bool | None]]:
        [photo] = FaceEmbedder.load(file, device="cpu", **options).find_batch(["p.png"])
        return [face.likelihood for face in photo.faces], [face.is_abnormal for face in photo.faces]

    scores, verdicts = judged()
    np.testing.assert_allclose(np.array(scores, float), expected, rtol=1e-5)
    assert verdicts == [None] * 6
    ordered = np.sort(expected)
    thresholds = [threshold(0.1, ordered[3] - 1e-3), threshold(0.01, ordered[1] - 1e-3)]
    tensors, description = read_weights(file)
    likelihood = {"thresholds": thresholds_to_json(thresholds)}
    write_weights(file, tensors, json.loads(description or "") | {"likelihood": likelihood})
    assert judged()[1] == (expected < ordered[1] - 1e-3).tolist()
    assert judged(false_alarm_rate=0.1)[1] == (expected < ordered[3] - 1e-3).tolist()
    with pytest.raises(FacegmError, match=r"false-alarm rate 0\.05: LFW gave thresholds of 0\.1, 0\.01"):
        judged(false_alarm_rate=0.05)
    write_model(file, None)
    assert judged() == ([None] * 6, [None] * 6)
    with pytest.raises(FacegmError, match=r"embedder\.safetensors: carries no class means.*leave the rate out"):
        judged(false_alarm_rate=0.1)


# ------------------------------------------------------------------------------------------------ exporting


def carried(file: Path) -> np.ndarray | None:
    found = read_likelihood(file)
    return None if found is None else found.means


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_gm_run_exports_its_means_or_their_average(small_store: Path, tmp_path: Path, ema_decay: float) -> None:
    run, config = tmp_path / "run", small_config(small_store, epochs=1.0, ema_decay=ema_decay)
    train_run(config, run)
    state = load_newest_checkpoint(run)
    assert state is not None
    last = state["task"]["loss.means"].numpy()
    expected = state["average"]["task"]["loss.means"].numpy() if ema_decay else last
    np.testing.assert_array_equal(carried(run / "embedder.safetensors"), expected)
    assert np.array_equal(expected, last) == (not ema_decay)

    (run / "embedder.safetensors").unlink()  # as of a run that is not at its end
    np.testing.assert_array_equal(carried(export_newest(run, config)), expected)


def test_other_losses_and_very_many_means_are_not_carried(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    softmax = small_config(small_store, epochs=1.0)
    softmax = replace(softmax, loss=LossConfig(name="softmax"))
    train_run(softmax, tmp_path / "softmax")
    assert carried(tmp_path / "softmax/embedder.safetensors") is None
    assert "means" not in caplog.text

    monkeypatch.setattr(face_class_means, "MOST_BYTES", 6 * DIM * 4 - 1)
    gm = small_config(small_store, epochs=1.0)
    with caplog.at_level(logging.INFO):
        train_run(gm, tmp_path / "gm")
    assert carried(tmp_path / "gm/embedder.safetensors") is None
    assert "the exported embedder goes without the identities' means" in caplog.text
    from_checkpoint = face_class_means.class_means(tmp_path / "gm", gm)
    assert from_checkpoint is not None
    assert from_checkpoint.shape == (6, DIM)
    (tmp_path / "gm/embedder.safetensors").unlink()
    assert carried(export_newest(tmp_path / "gm", gm)) is None


def test_features_are_the_mean_of_both_sides() -> None:
    embeddings = np.array([[2.0, 4.0]], np.float32)
    assert training_scale(embeddings, is_mirrored=True).tolist() == [[1.0, 2.0]]
    assert training_scale(embeddings, is_mirrored=False).tolist() == [[2.0, 4.0]]
