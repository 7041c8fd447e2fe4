"""Protects what `facegm reproduce` does beside training: fetching data, refusing others, keeping results apart."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from image_sets import alternating, write_mnist

from facegm.cli import main
from facegm.reproduce.budget import Budget
from facegm.reproduce.cell_data import DataSets
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.reproduction import Options, Reproduction

CONFIG = """
task: classification
data: {{set: mnist, folder: digits}}
train: {{epochs: {epochs}}}
"""


def write_results(options: Options, error: float) -> Reproduction:
    """Have all cells finished, with errors that grow from the one that is given."""
    reproduction, sets = Reproduction(options), DataSets()
    for number, entry in enumerate(reproduction.entries):
        folder = reproduction.cells_folder / entry.cell.name
        folder.mkdir(parents=True)
        numbers = {"error": error + number / 100, "best_error": error}
        data = sets.open(entry.cell.config).description
        machine = {"device": "of a test", "precision": "float32", "torch": "2"}
        (folder / RESULT_FILE).write_text(json.dumps({"numbers": numbers, "data": data, "machine": machine}))
    return reproduction


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: digits, and configurations of 3 and of 5 epochs."""
    monkeypatch.chdir(tmp_path)
    write_mnist(Path("digits"), alternating(40, 10), alternating(20, 10))
    for name, epochs in (("first", 3), ("second", 5)):
        Path(f"{name}.yaml").write_text(CONFIG.format(epochs=epochs))
    return tmp_path


# ------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table1"], [("mnist", "sets/mnist")]),
        (["fig2"], [("mnist", "sets/mnist"), ("cifar10", "sets/cifar10")]),
        (["fig2", "--filter=CIFAR"], [("cifar10", "sets/cifar10")]),
        (["table3"], [("cifar100", "sets/cifar100")]),
        (["table1", "--config=first.yaml"], [("mnist", "digits")]),
        (["table4"], []),
        (["fig4"], []),
    ],
)
def test_every_set_is_downloaded_once_and_before_anything_else(
    arguments: list[str], expected: list[tuple[str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    monkeypatch.setattr(
        "facegm.classification.download.download", lambda name, folder: done.append((name, str(folder)))
    )
    monkeypatch.setattr(Reproduction, "run", lambda _: done.append("run"))
    assert main(["reproduce", *arguments, "--data=sets"]) == 0
    assert done == ["run"]
    done.clear()
    assert main(["reproduce", *arguments, "--data=sets", "--download"]) == 0
    assert done == [*expected, "run"]


def test_a_dry_run_downloads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("facegm.classification.download.download", refuse)
    monkeypatch.setattr("facegm.reproduce.reproduction.seconds_of", lambda configs, _: [1.0] * len(configs))
    assert main(["reproduce", "table1", "--dry-run", "--download"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["digits", "first.yaml", "second.yaml"]


def test_finished_cells_are_refused_once_the_data_are_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other test images alone; and the same images in another folder are the same."""
    options = Options(name="table1", output=Path("out"), config=Path("first.yaml"))
    reproduction = write_results(options, 2.0)
    then = next(iter(reproduction.results().values())).data
    command = ["reproduce", "table1", "--output=out", "--config=first.yaml"]
    shutil.move("digits", "elsewhere")
    Path("first.yaml").write_text(CONFIG.format(epochs=3).replace("digits", "elsewhere"))
    assert main(command) == 0
    table = Path("out/table1-first.csv").read_bytes()

    write_mnist(Path("elsewhere"), alternating(40, 10), [1, *alternating(20, 10)[1:]])
    capsys.readouterr()
    assert main(command) == 1
    now = DataSets().open(Reproduction(options).entries[0].cell.config).description
    assert [a == b for a, b in zip(then.split(" and "), now.split(" and "), strict=True)] == [True, False]
    first = reproduction.chosen[0].cell.name
    assert f"out/cells/{first}: was made of {then}, and now there are {now}; give" in capsys.readouterr().err
    assert Path("out/table1-first.csv").read_bytes() == table


# ------------------------------------------------------------------------------------------------- results


def test_configurations_that_share_an_output_folder_keep_their_results_apart(folder: Path) -> None:
    options = Options(name="table1", output=Path("out"), config=Path("first.yaml"))
    plans = [write_results(options, 1.0), write_results(replace(options, config=Path("second.yaml")), 50.0)]
    written: list[bytes] = []
    for name in ("first", "second"):
        assert main(["reproduce", "table1", "--output=out", f"--config={name}.yaml"]) == 0
        written.append(Path(f"out/table1-{name}.csv").read_bytes())
    assert [Path(f"out/table1-{name}.csv").read_bytes() for name in ("first", "second")] == written
    for name, plan, error in (("first", plans[0], 1.0), ("second", plans[1], 50.0)):
        rows = list(csv.DictReader(Path(f"out/table1-{name}.csv").read_text().splitlines()))
        assert [row["cell"] for row in rows] == [entry.cell.name for entry in plan.entries]
        assert [float(row["value"]) for row in rows] == pytest.approx([error + number / 100 for number in range(36)])
        assert f"{error + 0.12:.2f} ± " in Path(f"out/table1-{name}.html").read_text()
    assert len(list(Path("out/cells").glob(f"*/{RESULT_FILE}"))) == 72


def test_a_budget_that_was_divided_for_other_jobs_warns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("facegm.reproduce.reproduction.seconds_of", lambda configs, _: [100.0] * len(configs))
    options = Options(name="table1", output=Path("out"), budget=Budget.parse("10m"), jobs=2)
    plan = [entry.cell.name for entry in Reproduction(options).entries]
    caplog.set_level(logging.WARNING)
    assert [entry.cell.name for entry in Reproduction(options).entries] == plan
    assert not caplog.records
    assert [entry.cell.name for entry in Reproduction(replace(options, jobs=8)).entries] == plan
    assert [record.getMessage() for record in caplog.records] == [
        "these are 8 jobs: the grid takes 0.25 times the budget"
    ]
