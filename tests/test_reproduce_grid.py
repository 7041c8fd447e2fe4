"""Protects a grid's work: no finished cell is done again whatever is killed, and commands that share one share it."""

import csv
import gzip
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_grids import FORKED, PAGELESS
from facegm_commands import Command
from image_sets import alternating, write_mnist
from naive_networks import naive_cifar_resnet
from safetensors.torch import load_file

from facegm.models.cifar_resnet import CifarResNet
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.reproduction import Options, Reproduction

ARGUMENTS = ["reproduce", "table3", "--data=data", "--output=out", "--budget=1epochs", "--config=small.yaml"]
ARGUMENTS += ["--filter=C100+", "--filter=seed 0"]
SMALL = """
task: classification
data: {set: mnist, folder: data/small, padding: 1}
preprocessing: {mean: [0.1307], std: [0.3081]}
model: {name: resnet20}
optimizer: {learning_rate: 0.02, clip_gradient: 5}
train: {epochs: 6, batch_size: 16, precision: float32, compile: false, checkpoint_every: 4, log_every: 4}
"""
CELLS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and a configuration, and in `whole` what an undisturbed command makes of them."""
    folder = tmp_path_factory.mktemp("grid")
    write_mnist(folder / "data" / "small", alternating(160, 10), alternating(60, 10))
    (folder / "small.yaml").write_text(SMALL)
    command = begin(folder, "--output=whole", "--jobs=2")
    assert command.wait(200) == 0, command.output
    return folder


def begin(folder: Path, *options: str, name: str = "output.txt") -> Command:
    return Command([*ARGUMENTS, *options], folder, code=FORKED + PAGELESS, name=name)


def begun(text: str) -> list[str]:
    return re.findall(r"^begins  (\w+)", text, flags=re.MULTILINE)


def finished(output: Path) -> dict[str, int]:
    """The finished cells and when they were."""
    return {file.parent.name: file.stat().st_mtime_ns for file in output.glob(f"cells/*/{RESULT_FILE}")}


def table(output: Path) -> str:
    return (output / "table3-small-1epochs.csv").read_text()


def rows_of(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table(output).splitlines()))


def test_every_cell_is_done_once_and_stands_in_the_table(folder: Path) -> None:
    rows = rows_of(folder / "whole")
    assert [row["row"] for row in rows] == [
        "center",
        "L-Softmax",
        "softmax",
        "GM alpha=0.1",
        "GM alpha=0.2",
        "GM alpha=0.3",
    ]
    assert {row["column"] for row in rows} == {"C100+"}
    assert {(row["epochs"], row["of_epochs"]) for row in rows} == {("1", "6")}
    assert {row["cell"] for row in rows} == set(finished(folder / "whole"))
    assert len({row["value"] for row in rows}) > 3, "the losses cannot be told apart by what they learn"
    assert all(0 <= float(row["best_epoch_value"]) <= float(row["value"]) <= 100 for row in rows)
    output = (folder / "output.txt").read_text()
    assert sorted(begun(output)) == sorted(finished(folder / "whole"))
    assert "shortened: 1 of 6 epochs" in output


def digits(folder: Path, part: str) -> tuple[torch.Tensor, np.ndarray]:
    """Images on a scale of 0 to 1 and labels, as the IDX files have them."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return torch.from_numpy(pixels.reshape(len(labels), 1, 28, 28) / np.float32(255)), labels


def errors_of(file: Path, images: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Percentages of an exported ResNet-20, written out."""
    tensors = load_file(file)
    order = CifarResNet(20, channels=1).state_dict()
    network = [tensors.pop(f"network.{name}") for name in order]
    features = naive_cifar_resnet(network, (images - 0.1307) / 0.3081, 3).numpy()
    if "loss.means" in tensors:
        logits = -0.5 * np.square(features[:, None] - tensors["loss.means"].numpy()).sum(axis=2)
    else:
        logits = features @ tensors["loss.weight"].numpy().T
        logits += tensors["loss.bias"].numpy() if "loss.bias" in tensors else 0
    rank = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    return {"error": 100 * float((rank > 0).mean()), "top5_error": 100 * float((rank > 4).mean())}


def test_the_figures_are_those_of_the_exported_classifiers_on_the_test_images(folder: Path) -> None:
    test, training = digits(folder / "data" / "small", "t10k"), digits(folder / "data" / "small", "train")
    learned, tested = [], []
    for row in rows_of(folder / "whole"):
        run = folder / "whole" / "cells" / row["cell"]
        numbers = json.loads((run / RESULT_FILE).read_bytes())["numbers"]
        last, best = (
            errors_of(run / name, *test) for name in ("classifier.safetensors", "classifier-best.safetensors")
        )
        expected = {**last, **{f"best_{name}": value for name, value in best.items()}}
        expected |= {"accuracy": 100 - last["error"], "best_accuracy": 100 - best["error"]}
        means = load_file(run / "classifier.safetensors").get("loss.means")
        if means is not None:
            pairs = [float(np.linalg.norm(means[i].double() - means[j].double())) for i in range(10) for j in range(i)]
            expected |= {"mean_distance": float(np.mean(pairs)), "distance_deviation": float(np.std(pairs))}
            expected["optimal_distance"] = np.sqrt(2 * np.log(10 * (1 / 0.002 - 1) + 1))  # Eq. 16
        assert numbers == pytest.approx(expected, rel=1e-5), row["row"]
        assert float(row["value"]) == pytest.approx(last["error"], abs=1e-4)
        assert float(row["best_epoch_value"]) == pytest.approx(best["error"], abs=1e-4)
        tested.append(last)
        learned.append(errors_of(run / "classifier.safetensors", *training))
    for name in ("error", "top5_error"):
        ours, others = ([one[name] for one in found] for found in (tested, learned))
        assert ours != pytest.approx(others, abs=0.5), "training images could be taken for them"


def test_a_second_command_does_nothing_again(folder: Path) -> None:
    before, text = finished(folder / "whole"), table(folder / "whole")
    command = begin(folder, "--output=whole", name="again.txt")
    assert command.wait() == 0, command.output
    assert begun(command.output) == []
    assert finished(folder / "whole") == before
    assert table(folder / "whole") == text


def kill(folder: Path, output: str, name: str, wait: Callable[[Command], object]) -> None:
    """Begin the command, and kill it when what is waited for has come."""
    command = begin(folder, f"--output={output}", "--jobs=2", name=f"{output}-{name}.txt")
    wait(command)
    was_running = command.poll() is None
    command.kill()
    command.wait()
    print(f"killed, running: {was_running}, {len(finished(folder / output))} cells finished")


def go_on(folder: Path, output: str) -> None:
    """Let the command come to its end; no finished cell is touched again."""
    before = finished(folder / output)
    last = begin(folder, f"--output={output}", "--jobs=2", name=f"{output}-last.txt")
    assert last.wait(300) == 0, last.output
    after = finished(folder / output)
    assert before.items() <= after.items()
    assert not set(begun(last.output)) & set(before)
    assert len(after) == CELLS
    assert table(folder / output) == table(folder / "whole")


def test_killed_it_repeats_no_finished_cell_and_ends_in_the_same_table(folder: Path) -> None:
    """Killed when the first cells have begun, and when the first is finished."""
    cells = folder / "killed" / "cells"
    kill(folder, "killed", "early", lambda command: command.wait_until(lambda: any(cells.glob("*/config.yaml"))))
    kill(folder, "killed", "late", lambda command: command.wait_until(lambda: bool(finished(folder / "killed"))))
    assert 1 <= len(finished(folder / "killed")) < CELLS
    go_on(folder, "killed")


@pytest.mark.slow
def test_killed_at_five_random_moments_likewise(folder: Path) -> None:
    rng = random.Random(5)
    for number in range(5):
        kill(folder, "killed-often", str(number), lambda _: time.sleep(rng.uniform(1.0, 2.6)))
    go_on(folder, "killed-often")


def test_two_commands_at_once_share_the_work(folder: Path) -> None:
    commands = [begin(folder, "--output=shared", "--jobs=1", name=f"shared-{number}.txt") for number in range(2)]
    for command in commands:
        assert command.wait(300) == 0, command.output
    done = [set(re.findall(r"^done    (\w+)", command.output, flags=re.MULTILINE)) for command in commands]
    assert all(done), "one has done all"
    assert done[0] | done[1] == set(finished(folder / "shared"))
    assert not done[0] & done[1]
    assert table(folder / "shared") == table(folder / "whole")


def test_a_cell_that_fails_costs_no_other_and_is_named(folder: Path) -> None:
    """The cell of L-Softmax finds a folder of something else in its place."""
    whole = {row["row"]: row["cell"] for row in rows_of(folder / "whole")}
    spoilt = folder / "spoilt" / "cells" / whole["L-Softmax"]
    spoilt.mkdir(parents=True)
    (spoilt / "holiday.jpg").touch()
    command = begin(folder, "--output=spoilt", "--jobs=2", name="spoilt.txt")
    assert command.wait(200) == 1
    assert f"1 of 6 cells have failed; see spoilt/cells/{whole['L-Softmax']}.log" in command.output
    assert "is not a run folder" in spoilt.with_suffix(".log").read_text()
    assert len(finished(folder / "spoilt")) == CELLS - 1
    assert [row["row"] for row in rows_of(folder / "spoilt")] == [name for name in whole if name != "L-Softmax"]


def test_parts_of_an_array_are_all_cells_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    all_of_it = Options(name="table3", config=Path("small.yaml"))
    whole = [p.cell.name for p in Reproduction(all_of_it).chosen]
    parts = [[p.cell.name for p in Reproduction(replace(all_of_it, part=(i, 5))).chosen] for i in range(1, 6)]
    assert len(whole) == len(set(whole)) == 36
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert {len(part) for part in parts} == {7, 8}
