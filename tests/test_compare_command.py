"""`facegm compare`: from verified runs to what may be claimed of their recipes, and what it refuses."""

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from scored_reports import config_of_run, few_people, judged, write_scored

from facegm.cli import main
from facegm.eval.people_sampling import PeopleSampling
from facegm.eval.recipe_test import compare_recipes

PAIRS = few_people(size=100, people=60)


def runs_of(folder: Path, loss: str, accuracies: list[float], **train: Any) -> list[Path]:
    """Runs of one recipe, with seeds from 0 on; a second score has errors of its own."""
    made = []
    for seed, accuracy in enumerate(accuracies):
        number = 100 * len(loss) + seed
        right = {"PCA 64": judged(PAIRS, accuracy, number), "no PCA": judged(PAIRS, accuracy - 0.05, number + 50)}
        made.append(write_scored(folder / f"{loss}-{seed}", PAIRS, right, config_of_run(seed, loss, **train)))
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("runs")
    accuracies = {"gm": [0.95, 0.94, 0.945], "softmax": [0.80, 0.81, 0.82], "center": [0.94, 0.95, 0.93]}
    return {loss: runs_of(folder, loss, own) for loss, own in accuracies.items()}


def compare(output: Path, *arguments: str | Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    assert main(["compare", *map(str, arguments), "--output", str(output)]) == 0
    with (output / "comparison.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    numbers: dict[str, Any] = json.loads((output / "comparison.json").read_text())
    return numbers, rows


def test_runs_are_grouped_by_what_their_configurations_differ_in(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = [run for seed in range(3) for run in (runs["gm"][seed], runs["softmax"][seed], runs["center"][seed])]
    numbers, rows = compare(tmp_path, *mixed)
    names = ["loss.name=gm", "loss.name=softmax", "loss.name=center"]
    assert [group["name"] for group in numbers["groups"]] == names
    assert all(group["seeds"] == [0, 1, 2] for group in numbers["groups"])
    assert numbers["groups"][1]["runs"] == [str(run / "lfw/report.json") for run in runs["softmax"]]
    assert numbers["groups"][0]["accuracies"]["PCA 64"] == pytest.approx([0.95, 0.94, 0.945])
    assert numbers["tests"] == len(rows) == 6
    assert [row["score"] for row in rows] == ["PCA 64"] * 3 + ["no PCA"] * 3
    assert [(row["first"], row["second"]) for row in rows[:3]] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    assert [row["verdict"] for row in rows[:3]] == ["first better", "level", "second better"]
    tested = sorted((contrast["recipes"]["p"], contrast["corrected_p"]) for contrast in numbers["contrasts"])
    assert tested[0][1] == pytest.approx(6 * tested[0][0])
    assert tested[1][1] == pytest.approx(max(6 * tested[0][0], 5 * tested[1][0]))
    assert all(one[1] <= other[1] for one, other in pairwise(tested))
    text = capsys.readouterr().out
    assert "800 pairs, 240 people" in text
    assert "loss.name=softmax  3     81.00 ± 1.00  76.00 ± 1.00" in text
    assert "Holm, 6 tests" in text


def test_numbers_are_those_of_the_judgements(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    numbers, rows = compare(tmp_path, *runs["gm"], *runs["center"], "--score", "no PCA", "--difference", "2")
    first, second = (
        np.stack([judged(PAIRS, a - 0.05, 100 * len(loss) + seed + 50) for seed, a in enumerate(accuracies)])
        for loss, accuracies in (("gm", [0.95, 0.94, 0.945]), ("center", [0.94, 0.95, 0.93]))
    )
    expected = compare_recipes(first, second, PeopleSampling(PAIRS.fold, PAIRS.people))
    (contrast,) = numbers["contrasts"]
    found = contrast["recipes"]
    assert found["p"] == expected.p == contrast["corrected_p"]
    assert found["interval"] == list(expected.interval)
    assert found["difference"] == contrast["difference"] == pytest.approx(0.895 - 0.89)
    assert found["standard_error"] == expected.standard_error
    assert found["seeds_for_wanted"] == expected.seeds_needed(0.02)
    assert found["seeds_for_observed"] == expected.seeds_needed(expected.difference)
    assert numbers["wanted_difference"] == 0.02
    assert float(rows[0]["points"]) == pytest.approx(0.5)
    assert float(rows[0]["low"]) == pytest.approx(100 * expected.interval[0], abs=1e-3)


def test_two_single_runs_are_compared_as_networks_and_no_recipe_is_spoken_of(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, rows = compare(tmp_path, runs["gm"][0], runs["softmax"][0], "--score", "PCA 64")
    first, second = judged(PAIRS, 0.95, 200), judged(PAIRS, 0.80, 700)
    alone, other = int((first & ~second).sum()), int((second & ~first).sum())
    (contrast,) = numbers["contrasts"]
    assert contrast["networks"]["p"] == pytest.approx(binomtest(alone, alone + other).pvalue)
    assert (contrast["networks"]["first_alone"], contrast["networks"]["second_alone"]) == (alone, other)
    assert contrast["recipes"] is None
    assert contrast["is_level"]
    assert contrast["networks"]["p"] < 1e-6
    assert rows[0]["verdict"] == "no claim: one seed"
    text = capsys.readouterr().out
    assert "McNemar's exact test" in text
    assert "says nothing of the recipes" in text
    assert "better" not in text


def test_a_single_run_against_several_is_not_tested(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, rows = compare(tmp_path, *runs["gm"], runs["softmax"][0])
    assert numbers["tests"] == 0
    assert all(c["recipes"] is c["networks"] is c["corrected_p"] is None for c in numbers["contrasts"])
    assert rows[0]["verdict"] == "no claim: one seed"
    assert "one seed carries no claim: loss.name=gm and loss.name=softmax" in capsys.readouterr().out


def test_groups_are_named_by_settings_of_one_loss_where_those_alone_differ(tmp_path: Path) -> None:
    right = {"PCA 64": judged(PAIRS, 0.9, 0)}
    made = []
    for alpha in (0.01, 0.3):
        for seed in (0, 1):
            config = config_of_run(seed)
            config["loss"]["gm"]["alpha"] = alpha
            config["loss"]["center"] |= {"weight": 0.5 + alpha}  # not in use
            config["data"]["workers"] = seed  # changes no result
            config["optimizer"]["clip_gradient"] = "inf"  # as reports write it
            made.append(write_scored(tmp_path / f"{alpha}-{seed}", PAIRS, right, config))
    numbers, _ = compare(tmp_path / "out", *made)
    assert [group["name"] for group in numbers["groups"]] == ["loss.gm.alpha=0.01", "loss.gm.alpha=0.3"]


def test_runs_on_other_faces_or_from_other_weights_are_another_recipe(tmp_path: Path) -> None:
    right = {"PCA 64": judged(PAIRS, 0.9, 0)}
    made = []
    for number, (section, key, value) in enumerate(
        [("train", "epochs", 20.0), ("data", "exclude_identities", ["0000513"]), ("train", "init", "/w.safetensors")]
    ):
        config = config_of_run(0)
        config[section][key] = value
        made.append(write_scored(tmp_path / str(number), PAIRS, right, config))
    numbers, _ = compare(tmp_path / "out", *made)
    assert [group["name"] for group in numbers["groups"]] == [
        "data.exclude_identities=[], train.init=None",
        "data.exclude_identities=['0000513'], train.init=None",
        "data.exclude_identities=[], train.init=/w.safetensors",
    ]


def test_reports_without_a_configuration_are_grouped_by_hand(tmp_path: Path) -> None:
    made = [write_scored(tmp_path / f"{n}", PAIRS, {"cosine": judged(PAIRS, 0.9, n)}) for n in range(4)]
    numbers, _ = compare(tmp_path / "out", "--group", "ours", *made[:2], "--group", "theirs", *made[2:])
    assert [group["name"] for group in numbers["groups"]] == ["ours", "theirs"]
    assert [group["seeds"] for group in numbers["groups"]] == [None, None]
    assert numbers["contrasts"][0]["recipes"]["seeds"] == [2, 2]


def refused(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", *map(str, arguments)]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("facegm compare: ")
    assert said.count("\n") == 1
    return said


def test_what_carries_no_comparison_is_refused(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gm, softmax = runs["gm"][0], runs["softmax"][0]
    assert "--group NAME RUN..." in refused([], capsys)
    assert "--group NAME RUN..." in refused([gm, "--group", "a", softmax], capsys)
    assert "--group a: no runs" in refused(["--group", "a", "--group", "b", gm], capsys)
    assert "--group a: given twice" in refused(["--group", "a", gm, "--group", "a", softmax], capsys)
    assert "all runs are of one group" in refused([gm, runs["gm"][1]], capsys)
    assert "no score 'cosine'; the reports share 'PCA 64', 'no PCA'" in refused(
        [gm, softmax, "--score", "cosine"], capsys
    )
    assert "neither report.json nor lfw/report.json" in refused([tmp_path], capsys)

    right = {"PCA 64": judged(PAIRS, 0.9, 0)}
    repeat = write_scored(tmp_path / "repeat", PAIRS, right, config_of_run(0))
    assert "both of seed 0 in group loss.name=gm; a repeat is no further seed" in refused([gm, repeat, softmax], capsys)
    bare = write_scored(tmp_path / "bare", PAIRS, right)
    assert "holds no configuration to be grouped by; use --group NAME RUN..." in refused([bare], capsys)
    wrong = config_of_run(7)
    wrong["train"]["epoch"] = 3
    wrong_run = write_scored(tmp_path / "wrong", PAIRS, right, wrong)
    assert f"{wrong_run}/lfw/report.json: train.epoch: no such" in refused([wrong_run], capsys)


def test_other_pairs_and_other_scores_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = write_scored(tmp_path / "ours", PAIRS, {"PCA 64": judged(PAIRS, 0.9, 0)})
    fewer = few_people(size=99, people=60)
    others = write_scored(tmp_path / "others", fewer, {"PCA 64": judged(fewer, 0.9, 0)})
    swapped = replace(PAIRS, names_a=(*PAIRS.names_a[:-1], "F3P0/9.jpg"))
    another = write_scored(tmp_path / "another", swapped, {"PCA 64": judged(PAIRS, 0.9, 0)})
    cosine = write_scored(tmp_path / "cosine", PAIRS, {"cosine": judged(PAIRS, 0.9, 0)})
    for other, trouble in (
        (others, "verified on different pairs, or in different folds (800 and 792 pairs)"),
        (another, "verified on different pairs, or in different folds (800 and 800 pairs)"),
        (cosine, "no score 'PCA 64'; the reports share none"),
    ):
        assert trouble in refused(["--group", "a", ours, "--group", "b", other], capsys)


def test_a_network_counts_once_by_whatever_it_is_known(
    runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its report's distances, or, where these differ by rounding, by its weights."""
    content = json.loads((runs["gm"][0] / "lfw/report.json").read_text())
    weights = dict(content["run"])
    content["run"]["model_digest"] = None
    (tmp_path / "distances.json").write_text(json.dumps(content))
    content["run"] = weights
    content["variants"][1]["distances"][0] *= 1 + 1e-9
    (tmp_path / "weights.json").write_text(json.dumps(content))
    for name in ("distances.json", "weights.json"):
        arguments: list[str | Path] = ["--group", "a", *runs["gm"][:2], "--group", "b", tmp_path / name]
        assert f"{name}: the same network twice" in refused(arguments, capsys)
