"""`facegm quality` from a run to its report, on a tiny store; what it computes, resumes and refuses."""

import csv
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_runs import small_config, write_pairs
from pages import Page
from stores import NamedFaces

from facegm.cli import main
from facegm.config import parse_config
from facegm.data.weights import read_weights, write_weights
from facegm.embedding.embedder import FaceEmbedder
from facegm.errors import FacegmError
from facegm.eval.quality import measurement as quality_measurement
from facegm.eval.quality import quality
from facegm.eval.quality import trial as quality_trial
from facegm.eval.quality.degradations import STRENGTHS, Degradation, degrade, drawn_degradation
from facegm.eval.quality.quality import AS_THEY_ARE, HALF_DEGRADED
from facegm.eval.quality.scores import DENSITY, LIKELIHOOD, MEANINGS, MIRROR, NORM, PROBABILITY, SHARPNESS
from facegm.eval.quality.trial import RelativeArea
from facegm.eval.sets.pairs import Pairs, read_pairs
from facegm.faces.class_means import class_means
from facegm.faces.config import FaceRunConfig
from facegm.faces.run import train_run
from facegm.losses.config import LossConfig
from facegm.training.checkpoint import load_newest_checkpoint

LADDER_IMAGES = 2


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Fewer images at every rung, small blocks, and less chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "LADDER_IMAGES", LADDER_IMAGES)
        patch.setattr(quality_measurement, "BLOCK", 40)
        patch.setattr(quality_trial, "RESAMPLES", 20)
        patch.setattr(quality_trial, "PERMUTATIONS", 10)
        yield


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained a little, with its pairs."""
    folder = tmp_path_factory.mktemp("quality")
    train_run(small_config(small_store, epochs=4.0), folder / "run")
    write_pairs(folder / "pairs.txt")
    return folder / "run"


def arguments(model: Path, store: Path, output: Path, *more: str) -> list[str]:
    pairs = str((model if model.is_dir() else model.parent).parent / "pairs.txt")
    return ["quality", str(model), "--photos", str(store), "--pairs", pairs, "--output", str(output), *more]


def numbers_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "quality.json").read_text("utf-8"))
    return found


def faces_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "faces.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="module")
def done(run: Path, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command's results."""
    output = tmp_path_factory.mktemp("done")
    assert main(arguments(run, small_store, output)) == 0
    return output


def rung_of(row: dict[str, str]) -> Degradation | None:
    return Degradation(row["degradation"], int(row["severity"])) if row["degradation"] else None  # type: ignore[arg-type]


def test_each_face_has_the_scores_of_what_it_is_said_to_be(done: Path, run: Path, small_store: Path) -> None:
    """By the embedder of applications and the checkpoint's means, face by face."""
    rows, store, embedder = faces_in(done), NamedFaces(small_store), FaceEmbedder.load(run)
    images = read_pairs(run.parent / "pairs.txt").images
    views = [(row["image"], rung_of(row)) for row in rows]
    assert len(set(views)) == len(views)
    assert {view for view in views if view[1] is None} == {(name, None) for name in images}
    drawn = {view for view, row in zip(views, rows, strict=True) if row["drawn"] == "1"}
    assert drawn == {(name, drawn_degradation(name, 0)) for name in images}
    assert 0 < sum(rung is not None for _, rung in drawn) < len(drawn)
    on_ladder = {name for name, _ in views if sum(view[0] == name for view in views) > 2}
    assert len(on_ladder) == LADDER_IMAGES
    assert len([view for view in views if view[0] in on_ladder]) == LADDER_IMAGES * 21

    state = load_newest_checkpoint(run)
    assert state is not None
    means = state["task"]["loss.means"].double().numpy()
    some = [*rows[:5], *rows[-25:]]
    faces = [degrade(store.face(row["image"]), rung_of(row), name=row["image"], seed=0) for row in some]
    x = embedder.embed_aligned(faces).astype(np.float64) / 2
    nearest = np.array([min(((one - mu) ** 2).sum() for mu in means) for one in x])
    assert [float(row[LIKELIHOOD]) for row in some] == pytest.approx((-nearest / 2).tolist(), rel=1e-4, abs=1e-5)
    assert [float(row[NORM]) for row in some] == pytest.approx(np.linalg.norm(x, axis=1).tolist(), rel=1e-4)
    # No pattern is a face.
    assert {row[PROBABILITY] for row in some} == {"0"}
    assert all(float(row[SHARPNESS]) >= 0 and -2 <= float(row[MIRROR]) <= 0 for row in some)


def naive_fnmr(points: list[tuple[float, bool]], share: float) -> float:
    """Lowest qualities leave, whole groups, while no more than the share is gone."""
    kept = points
    for value in sorted({value for value, _ in points}):
        left = [point for point in points if point[0] >= value]
        if 1 - len(left) / len(points) <= share + 1e-9:
            kept = left
    return sum(error for _, error in kept) / len(kept)


def test_curves_are_those_of_the_faces_in_the_table(done: Path, run: Path, small_store: Path) -> None:
    """Distances again by the embedder, qualities from the table, thresholds and discards by plain loops."""
    found, rows, store, embedder = numbers_in(done), faces_in(done), NamedFaces(small_store), FaceEmbedder.load(run)
    pairs = read_pairs(run.parent / "pairs.txt")
    row_of = {(row["image"], rung_of(row)): row for row in rows}

    def compare(is_degraded: bool) -> list[tuple[float, bool, dict[str, str], dict[str, str]]]:
        """Distance, whether of one person, and both faces' rows, of each pair."""
        views = {name: (name, drawn_degradation(name, 0) if is_degraded else None) for name in pairs.images}
        faces = [degrade(store.face(name), rung, name=name, seed=0) for name, rung in views.values()]
        x = embedder.embed_aligned(faces).astype(np.float64)
        unit = dict(zip(views, x / np.linalg.norm(x, axis=1, keepdims=True), strict=True))
        return [
            (float(np.linalg.norm(unit[a] - unit[b])), bool(same), row_of[views[a]], row_of[views[b]])
            for a, b, same in zip(pairs.names_a, pairs.names_b, pairs.same, strict=True)
        ]

    compared = {AS_THEY_ARE: compare(False), HALF_DEGRADED: compare(True)}
    different = sorted(distance for distance, same, *_ in compared[AS_THEY_ARE] if not same)
    # Of 12 pairs of different people 0.1 accepts one at most.
    thresholds = {"FMR 0.01": different[0], "FMR 0.1": different[1]}
    checked = 0
    for trial in found["trials"]:
        name, point = trial["condition"], trial["point"]
        of_kind = compared.get(name) or [
            one for one in compared[HALF_DEGRADED] if {one[2]["degradation"], one[3]["degradation"]} <= {"", name}
        ]
        if point["name"] in thresholds:
            assert point["threshold"] == pytest.approx(thresholds[point["name"]], rel=1e-5)
        threshold = point["threshold"] * (1 + 1e-7)  # its own pair is rejected
        mated = [(distance >= threshold - 1e-6, a, b) for distance, same, a, b in of_kind if same]
        assert trial["pairs"] == len(mated)
        assert trial["rejected"] == sum(rejected for rejected, *_ in mated)
        for score in MEANINGS:
            points = [(min(float(a[score]), float(b[score])), rejected) for rejected, a, b in mated]
            shares, curve = trial["curves"]["discarded"], trial["curves"][score]
            assert curve == pytest.approx([naive_fnmr(points, share) for share in shares], abs=1e-9)
            start = naive_fnmr(points, 0)
            fine = [naive_fnmr(points, (k + 0.5) / 400 * 0.2) for k in range(400)]
            for area in trial["areas"][score][:1]:
                assert area["area"] == pytest.approx(np.mean(fine) / start, abs=0.01)
                assert area["ideal"] <= area["area"] + 1e-9
                checked += 1
    assert checked > 20
    assert {trial["condition"] for trial in found["trials"]} >= {AS_THEY_ARE, HALF_DEGRADED}
    by_probability = found["trials"][0]["curves"][PROBABILITY]
    assert len(set(by_probability)) == 1, "where all are equal, none can leave"


def test_correlations_are_those_of_the_ladder(done: Path) -> None:
    found, rows = numbers_in(done), faces_in(done)
    on_ladder = {row["image"] for row in rows if sum(row["image"] == other["image"] for other in rows) == 21}
    assert found["ladder_images"] == LADDER_IMAGES == len(on_ladder)
    for kind in STRENGTHS:
        rungs = []
        for image in on_ladder:
            of_image = [row for row in rows if row["image"] == image and row["degradation"] in ("", kind)]
            rungs.append([float(row[SHARPNESS]) for row in sorted(of_image, key=lambda row: int(row["severity"]))])
        ranks = np.argsort(np.argsort(rungs, axis=1), axis=1)
        expected = np.mean([np.corrcoef(one, range(5))[0, 1] for one in ranks])
        assert found["severity_correlations"][SHARPNESS][kind] == pytest.approx(expected)
    assert found["severity_correlations"][PROBABILITY] == dict.fromkeys(STRENGTHS, 0.0)


def test_the_page_stands_alone_and_the_table_has_every_area(
    done: Path, run: Path, small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(run, small_store, done)) == 0
    said = capsys.readouterr().out
    assert f"report: {done / 'quality.html'}" in said
    assert LIKELIHOOD in said
    page = Page.of((done / "quality.html").read_text("utf-8"))
    assert page.tags.count("img") == 5 * 5
    assert page.tags.count("svg") == 3
    for word in (*MEANINGS.values(), "bootstrap over people", "under the 6 identities"):
        assert word in page.text
    with (done / "quality.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len({(row["condition"], row["threshold"], row["score"], row["limit"]) for row in rows}) == len(rows)
    found = {(trial["condition"], trial["point"]["name"]): trial for trial in numbers_in(done)["trials"]}
    for row in rows:
        areas = found[row["condition"], row["threshold"]]["areas"][row["score"]]
        expected = [f"{area['area']:.6g}" for area in areas if str(area["limit"]) == row["limit"]]
        assert expected == [row["area"]] or (not areas and row["area"] == "")


def test_interrupted_and_called_again_it_measures_only_what_is_missing_or_damaged(
    done: Path,
    run: Path,
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    embed, seen = FaceEmbedder.embed_sides, []

    def interrupt(embedder: FaceEmbedder, faces: np.ndarray) -> Any:
        seen.append(len(faces))
        if sum(seen) == 2 * 40 + 32:
            raise KeyboardInterrupt
        return embed(embedder, faces)

    monkeypatch.setattr(FaceEmbedder, "embed_sides", interrupt)
    assert main(arguments(run, small_store, tmp_path)) == 130
    blocks = sorted((tmp_path / "measured").iterdir())
    assert [path.name for path in blocks] == ["0.safetensors", "1.safetensors"]
    content = bytearray(blocks[1].read_bytes())
    content[-5] ^= 1
    blocks[1].write_bytes(content)
    seen[:] = [1000]
    with caplog.at_level(logging.WARNING):
        assert main(arguments(run, small_store, tmp_path)) == 0
    assert f"{blocks[1]}: damaged" in caplog.text
    assert sum(seen) - 1000 == len(faces_in(done)) - 40
    for name in ("quality.json", "quality.csv", "faces.csv", "quality.html"):
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


def test_an_embedder_without_means_has_no_likelihood_and_says_so(
    run: Path, small_store: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is of its network, whether it carries means or not, and is not measured again."""
    shutil.copytree(done / "measured", tmp_path / "measured")
    monkeypatch.setattr(FaceEmbedder, "embed_sides", None)  # all is measured
    (tmp_path / "alone").mkdir()
    file = shutil.copy(run / "embedder.safetensors", tmp_path / "alone")
    shutil.copy(run.parent / "pairs.txt", tmp_path)
    assert main(arguments(Path(file), small_store, tmp_path)) == 0
    assert [*numbers_in(tmp_path)["scores"]] == [*MEANINGS]
    drop_means(Path(file))
    assert main(arguments(Path(file), small_store, tmp_path)) == 0
    found = numbers_in(tmp_path)
    assert [*found["scores"]] == [score for score in MEANINGS if score not in (LIKELIHOOD, DENSITY)]
    assert "not offered" in found["facts"]["likelihoods"]
    assert "not offered" in Page.of((tmp_path / "quality.html").read_text("utf-8")).text


def test_a_quick_look_takes_both_kinds_of_pairs_alike(run: Path, small_store: Path, tmp_path: Path) -> None:
    assert main(arguments(run, small_store, tmp_path, "--max-pairs", "8", "--seed", "1")) == 0
    assert "8, 4 of them of one person" in numbers_in(tmp_path)["facts"]["pairs"]
    assert numbers_in(tmp_path)["trials"][0]["pairs"] == 4


def test_pairs_of_one_kind_are_refused(
    run: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = read_pairs(run.parent / "pairs.txt")
    chosen = [pair for pair in range(len(pairs)) if pairs.same[pair]]
    names_a, names_b = (tuple(names[pair] for pair in chosen) for names in (pairs.names_a, pairs.names_b))
    one_kind = Pairs(names_a, names_b, pairs.same[chosen], pairs.fold[chosen])
    monkeypatch.setattr(quality, "read_pairs", lambda _: one_kind)
    assert main(arguments(run, small_store, tmp_path)) == 1
    assert "all of one kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("area", "interval", "expected"),
    [
        (0.7, (0.6, 0.8), "helps"),
        (0.7, (0.3, 1.1), "not told from chance"),
        (0.95, (0.93, 0.97), "not told from chance"),
        (1.3, (1.2, 1.4), "harms"),
        (1.3, (0.9, 1.7), "not told from chance"),
    ],
)
def test_a_verdict_takes_both_spreads(area: float, interval: tuple[float, float], expected: str) -> None:
    found = RelativeArea(limit=0.2, area=area, interval=interval, random=(0.9, 1.1), random_mean=1.0, ideal=0.2)
    assert found.verdict == expected


# ------------------------------------------------------------------------------------------------- means


def drop_means(file: Path) -> None:
    """Make an embedder of an earlier facegm of one."""
    tensors, description = read_weights(file)
    del tensors["likelihood.means"]
    write_weights(file, tensors, json.loads(description or ""))


def config_of(run: Path) -> FaceRunConfig:
    return parse_config(run / "config.yaml", FaceRunConfig)


def test_means_are_the_embedders_or_else_the_checkpoints(run: Path, tmp_path: Path) -> None:
    state, copied = load_newest_checkpoint(run), tmp_path / "run"
    assert state is not None
    shutil.copytree(run, copied)
    drop_means(copied / "embedder.safetensors")
    shutil.copytree(run, tmp_path / "carrying", ignore=shutil.ignore_patterns("checkpoints"))
    for model in (copied, tmp_path / "carrying", run / "embedder.safetensors"):
        found = class_means(model, config_of(run))
        assert found is not None
        assert np.array_equal(found, state["task"]["loss.means"].numpy())
    assert class_means(copied / "embedder.safetensors") is None


def test_averaged_means_go_with_averaged_weights(small_store: Path, tmp_path: Path) -> None:
    config = small_config(small_store, epochs=1.0, ema_decay=0.5)
    train_run(config, tmp_path / "run")
    drop_means(tmp_path / "run" / "embedder.safetensors")
    state, found = load_newest_checkpoint(tmp_path / "run"), class_means(tmp_path / "run", config)
    assert state is not None
    assert found is not None
    assert np.array_equal(found, state["average"]["task"]["loss.means"].numpy())
    assert not np.array_equal(found, state["task"]["loss.means"].numpy())


def test_other_losses_have_no_means(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    drop_means(tmp_path / "run" / "embedder.safetensors")
    assert class_means(tmp_path / "run", replace(config_of(run), loss=LossConfig(name="softmax"))) is None


def test_means_of_other_weights_are_refused(run: Path, tmp_path: Path) -> None:
    """Protects against the means of one moment of a run under the embeddings of another."""
    shutil.copytree(run, tmp_path / "run")
    drop_means(tmp_path / "run" / "embedder.safetensors")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    state = torch.load(newest, weights_only=True)
    first = next(name for name in state["task"] if name.startswith("network."))
    state["task"][first] = state["task"][first] + 1
    torch.save(state, newest)
    with pytest.raises(FacegmError, match=r"other weights than embedder\.safetensors"):
        class_means(tmp_path / "run", config_of(run))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(FacegmError, match=r"no checkpoint.*embedder\.safetensors, which goes without"):
        class_means(tmp_path / "run", config_of(run))
