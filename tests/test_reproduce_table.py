"""Protects what a grid is made of: its cells' names, budgets, and figures beside those that were published."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.classification.config import ImageRunConfig
from facegm.cli import main
from facegm.config import find_config, parse_config
from facegm.errors import FacegmError, UsageError
from facegm.faces.config import FaceRunConfig
from facegm.reproduce.budget import Budget, seconds_of, shortened
from facegm.reproduce.cell_data import DataSets
from facegm.reproduce.cells import Result, visible_gpu
from facegm.reproduce.experiment import changed
from facegm.reproduce.paper import EXPERIMENTS
from facegm.reproduce.reproduction import Options, Reproduction
from facegm.reproduce.table import to_csv, to_text
from facegm.reproduce.trained_cells import TrainedCell
from facegm.schedule import Progress

MNIST = parse_config(find_config("mnist.yaml"), ImageRunConfig)


def config_of(overrides: Mapping[str, Any]) -> ImageRunConfig:
    return changed(MNIST, overrides)


# ------------------------------------------------------------------------------------------------- cells


def test_a_cell_is_named_by_what_changes_its_result() -> None:
    name = TrainedCell(MNIST).name
    assert re.fullmatch(r"[0-9a-f]{12}", name)
    free = {"data.folder": Path("elsewhere"), "train.precision": "float32", "train.log_every": 1, "data.workers": 0}
    assert TrainedCell(config_of(free)).name == name
    unused = {"loss.center.weight": 0.5}  # the loss is another
    assert TrainedCell(config_of(unused)).name == name
    different: list[dict[str, Any]] = [
        {"train.seed": 1},
        {"train.epochs": 49},
        {"loss.gm.alpha": 0.3},
        {"loss.name": "softmax"},
        {"model.feature_dim": 2},
        {"optimizer.learning_rate": 0.01},
        {"data.set": "cifar10"},
    ]
    assert len({name, *(TrainedCell(config_of(one)).name for one in different)}) == 1 + len(different)


def test_changed_changes_a_key_and_nothing_else() -> None:
    new = changed(MNIST, {"loss.gm.alpha": 0.125, "model.feature_dim": 3})
    assert (new.loss.gm.alpha, new.model.feature_dim) == (0.125, 3)
    assert replace(new, loss=MNIST.loss, model=MNIST.model) == MNIST
    assert replace(new.loss, gm=MNIST.loss.gm) == MNIST.loss
    with pytest.raises(KeyError, match="alfa"):
        changed(MNIST, {"loss.gm.alfa": 1})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned(name: str) -> None:
    """Its keys are those of its configuration, its titles and its published figures those of its rows and columns."""
    experiment = EXPERIMENTS[name]
    entries = Reproduction(Options(name=name)).entries
    assert len(entries) == len(experiment.rows) * len(experiment.columns) * experiment.seeds
    titles = {(row.title, column.title) for row in experiment.rows for column in experiment.columns}
    assert len(titles) == len(experiment.rows) * len(experiment.columns)
    assert {*experiment.paper, *experiment.peers} <= titles
    per_seed = {seed: {p.cell.name for p in entries if p.seed == seed} for seed in range(experiment.seeds)}
    assert len(set().union(*per_seed.values())) == sum(map(len, per_seed.values()))


def test_tables_share_the_cells_that_they_have_in_common() -> None:
    names = {name: {p.cell.name for p in Reproduction(Options(name=name)).entries} for name in EXPERIMENTS}
    assert len(names["table1"]) == 6 * 2 * 3
    assert names["fig1"] < names["table1"]
    assert len(names["fig2"] & names["table1"]) == 3
    assert len(names["table4"]) == 4 * 2  # top-1 and top-5 are of one run
    assert len(names["table3"] & names["table6"]) == 3 * 3
    assert len(names["fig4"]) == 11  # one point is in both curves
    assert len(names["table7"]) == 2 * 4 * 6 * 3  # of 7 rows 3 and 2 look at the same images
    assert names["fig5"] < names["table7"]
    assert len(names["table9"]) == len(names["table10"]) == 4 * 3  # AUC, distortion and success are of one attack
    assert not names["table9"] & names["table11"]


def test_all_cells_of_a_table_are_trained_alike() -> None:
    """But for the row's and the column's own: no loss is given another schedule."""
    for name in ("table1", "table2", "table3"):
        for column in EXPERIMENTS[name].columns:
            entries = [p for p in Reproduction(Options(name=name)).entries if p.column is column]
            recipes = {str((p.cell.config.optimizer, replace(p.cell.config.train, seed=0))) for p in entries}
            assert len(recipes) == 1


@pytest.mark.parametrize(
    ("visible", "number", "expected"), [(None, 1, "1"), ("3", 0, "3"), ("2,5", 1, "5"), ("MIG-a, MIG-b", 0, "MIG-a")]
)
def test_cells_use_the_gpus_that_the_command_may_see(visible: str | None, number: int, expected: str) -> None:
    assert visible_gpu(number, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == expected


# ------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("text", "seconds", "epochs"),
    [("90s", 90, None), ("10m", 600, None), ("1.5h", 5400, None), ("2d", 172_800, None), ("30epochs", None, 30)],
)
def test_budgets_are_times_or_epochs(text: str, seconds: float | None, epochs: float | None) -> None:
    assert Budget.parse(text) == Budget(text, seconds, epochs)


@given(st.text(max_size=8))
def test_other_budgets_are_refused(text: str) -> None:
    if re.fullmatch(r"\s*[\d\s]+(\s*\.[\d\s]+)?(s|m|h|d|e\s*p\s*o\s*c\s*h\s*s?)\s*", text):
        return
    with pytest.raises(UsageError, match="such as 10m or 2h"):
        Budget.parse(text)


def test_a_shorter_run_goes_through_the_same_schedules() -> None:
    whole = config_of({"loss.name": "l_softmax", "loss.l_softmax.gamma": 2.5e-5})
    short = shortened(whole, 5)
    assert short.train.epochs == 5
    for share in (0.0, 0.07, 0.3, 0.55, 0.999):
        at_whole, at_short = Progress(round(share * 46_850), 46_850), Progress(round(share * 4_685), 4_685)
        assert short.optimizer.rate(at_short) == whole.optimizer.rate(at_whole)
        weights = [c.loss.l_softmax.cosine_weight(at) for c, at in ((whole, at_whole), (short, at_short))]
        assert weights[1] == pytest.approx(weights[0], rel=0.01)
        assert weights[0] == pytest.approx(1000 * (1 + 2.5e-5 * at_whole.step) ** -35)


def test_a_time_is_divided_once_for_all_and_buys_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegm.reproduce.reproduction.seconds_of", lambda configs, _: [100.0] * len(configs))
    options = Options(name="table1", output=tmp_path, budget=Budget.parse("10m"))
    plan = Reproduction(replace(options, is_dry=True)).entries  # 36 runs of 100 s on one core: 600 s are a sixth
    assert {p.cell.config.train.epochs for p in plan} == {8.33}
    assert not list(tmp_path.iterdir())
    assert [p.cell.name for p in Reproduction(options).entries] == [p.cell.name for p in plan]
    monkeypatch.setattr("facegm.reproduce.reproduction.seconds_of", lambda configs, _: [1.0] * len(configs))
    assert [p.cell.name for p in Reproduction(options).entries] == [p.cell.name for p in plan]
    (tmp_path / "table1-10m.json").write_text("{")
    with pytest.raises(FacegmError, match=r"table1-10m.json: damaged; remove it"):
        Reproduction(options)


def test_a_budget_of_more_than_the_whole_changes_nothing(tmp_path: Path) -> None:
    whole, more = (
        Reproduction(Options(name="fig1", output=tmp_path, budget=budget)).entries
        for budget in (None, Budget.parse("500epochs"))
    )
    assert [p.cell.name for p in whole] == [p.cell.name for p in more]


def test_the_estimate_grows_with_epochs_and_knows_faces() -> None:
    short, long = seconds_of([config_of({"train.epochs": 1}), config_of({"train.epochs": 10})], DataSets())
    assert long == pytest.approx(10 * short)
    assert 5 < short < 5000  # an epoch of 60,000 digits on one core
    small = {"model.width": 0.05, "model.embedding_dim": 8, "train.batch_size": 2, "preprocessing.crop_size": 48}
    faces = changed(parse_config(find_config("casia.yaml"), FaceRunConfig), small)
    assert math.isfinite(seconds_of([faces], DataSets())[0])


# ------------------------------------------------------------------------------------------------- results


def test_figures_are_means_over_seeds_beside_the_papers() -> None:
    reproduction = Reproduction(Options(name="table2", budget=Budget.parse("30epochs")))
    errors = {0: (9.5, 9.25), 1: (10.0, 9.5), 2: (10.5, 10.0)}
    results = {
        p.cell.name: Result(
            numbers={"error": errors[p.seed][0], "best_error": errors[p.seed][1]},
            data="of a test",
            machine={"device": "EPYC", "precision": "bfloat16", "torch": "2.14"},
        )
        for p in reproduction.entries
        if p.row.title == "softmax" and p.column.title == "ResNet-20"
    }
    text = to_text(reproduction.experiment, reproduction.entries, results)
    line = next(line for line in text.splitlines() if line.startswith("softmax") and " ResNet-20 " in line)
    assert re.split(r"\s{2,}", line) == [
        "softmax [shortened: 30 of 300 epochs]",
        "ResNet-20",
        "10.00 ± 0.50 (3 seeds)",
        "9.58 ± 0.38 (3 seeds)",
        "8.75 ± 0.04 (He et al.'s, another recipe)",
        "7.40 (chenyaofo/pytorch-cifar-models: projection shortcuts, 200 epochs, cosine, batch 256)",
    ]
    assert "with a budget, shortened: 30 of 300 epochs" in text
    gm = next(line for line in text.splitlines() if line.startswith("GM alpha=0.3 [") and " ResNet-110 " in line)
    assert re.split(r"\s{2,}", gm)[2:] == ["-", "-", "4.96 ± 0.03", "-"]
    rows = list(csv.DictReader(to_csv(reproduction.experiment, reproduction.entries, results).splitlines()))
    assert [(row["seed"], row["value"], row["best_epoch_value"]) for row in rows] == [
        ("0", "9.5000", "9.2500"),
        ("1", "10.0000", "9.5000"),
        ("2", "10.5000", "10.0000"),
    ]
    assert {(row["row"], row["column"], row["epochs"], row["of_epochs"]) for row in rows} == {
        ("softmax", "ResNet-20", "30", "300")
    }
    assert {(row["paper"], row["paper_source"]) for row in rows} == {("8.75", "He et al.'s, another recipe")}
    assert {(row["like_recipe"], row["device"], row["precision"]) for row in rows} == {("7.4", "EPYC", "bfloat16")}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reproduce", "table5"], 2, "invalid choice: 'table5'"),
        (["reproduce", "table1", "--array=0/4"], 2, "0/4, must be such as 1/4"),
        (["reproduce", "table1", "--array=5/4"], 2, "5/4, must be such as 1/4"),
        (["reproduce", "table1", "--budget=soon"], 2, "--budget: soon, must be a time"),
        (["reproduce", "table1", "--filter=resnet"], 2, "--filter: no cell has all of resnet in its title"),
        (["reproduce", "table1", "--jobs=0"], 2, "--jobs: 0, must be a whole number"),
        (["reproduce", "table1", "--config=none.yaml"], 2, "none.yaml: no such configuration file"),
        (["reproduce", "table1", "--config=casia.yaml"], 2, "casia.yaml: of another kind of run than mnist.yaml"),
        (["reproduce", "fig4", "--config=mnist.yaml"], 2, "mnist.yaml: of another kind of run than casia.yaml"),
        (["reproduce", "table1", "--config=cifar10.yaml"], 2, "center, 2-D: feature_dim: 2,"),
        (["reproduce", "table1", "--images=5"], 2, "--images: table1 attacks no images"),
        (["reproduce", "fig4", "--attack-iterations=5"], 2, "--attack-iterations: fig4 attacks no images"),
        (["reproduce", "table9", "--images=0"], 2, "--images: 0, must be a whole number"),
        (["reproduce", "table1", "--data=nowhere"], 1, "nowhere/mnist: no files of"),
    ],
)
def test_wrong_use_is_named(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, f"--output={tmp_path}"]) == code
    assert message in capsys.readouterr().err


def test_a_dry_run_lists_cells_and_times_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "fig1", "--dry-run", f"--output={tmp_path / 'out'}", "--filter=gm", "--jobs=2"]) == 0
    *cells, total = capsys.readouterr().out.splitlines()
    assert [re.split(r"\s{2,}", line)[1:3] for line in cells] == [["to do", "50 epochs"]] * 3
    assert total.startswith("3 cells, ")
    assert "with 2 side by side" in total
    assert not (tmp_path / "out").exists()
