"""Protects tables of attacks: whatever is killed they end alike, and their figures are those of plain loops."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from attack_grids import (
    BATCH,
    DEPTHS,
    PAGELESS,
    SLOWLY,
    TEST,
    area,
    begin,
    digits,
    rows_of,
    scores,
    write_digits,
    write_networks,
)
from pages import Page
from safetensors.torch import load_file

from facegm.classification.classifier import load_classifier
from facegm.reproduce.attack_cells import AttackCell
from facegm.reproduce.cells import RESULT_FILE, Cell
from facegm.reproduce.reproduction import Options

FILTERS = ["MNIST", "seed 0", "BIM"]
TABLE7 = Options(
    name="table7", output=Path("networks"), config=Path("small.yaml"), filters=FILTERS, images=len(TEST), iterations=2
)
ARGUMENTS = [f"--images={len(TEST)}", "--attack-iterations=2", *(f"--filter={text}" for text in FILTERS)]
ATTACKS = 4
"""Of networks with softmax, softmax and dropout, RCE and GM."""
STEM = f"table7-small-{len(TEST)}images-2attack-iterations"


class Attacks(NamedTuple):
    folder: Path
    """With digits, networks of all rows in `networks`, and in `whole` what an undisturbed command makes of them."""
    cells: dict[str, Cell]
    """By their titles."""


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacks]:
    folder = tmp_path_factory.mktemp("attacks")
    write_digits(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facegm.models.image_network.CIFAR_DEPTHS", DEPTHS)
        patch.chdir(folder)
        work = write_networks(TABLE7).work
        shutil.copytree("networks", "whole")
        command = begin(folder, "table7", "--output=whole", "--jobs=2", *ARGUMENTS)
        assert command.wait(300) == 0, command.output
        yield Attacks(folder, {title: cell for cell, title in work.items()})


@pytest.fixture
def folder(attacks: Attacks) -> Path:
    return attacks.folder


def batches(output: Path) -> dict[Path, int]:
    """The files of attacked images, and when they were made."""
    files = output.glob("cells/*/attacked/*.safetensors")
    return {file.relative_to(output): file.stat().st_mtime_ns for file in files}


# ------------------------------------------------------------------------------------------------- figures


def test_every_row_has_its_figures_and_says_how_short_they_are(folder: Path) -> None:
    rows = rows_of(folder / "whole" / f"{STEM}.csv")
    titles = ["softmax+KD", "KD+BU", "I-defender", "LID", "RCE+KD", "GM+KD", "GM likelihood"]
    assert [row["row"] for row in rows] == [f"MNIST: {title}" for title in titles]
    assert len({row["cell"] for row in rows}) == ATTACKS
    assert {(row["images"], row["of_images"]) for row in rows} == {(str(len(TEST)), "1000")}
    assert {(row["iterations"], row["of_iterations"], row["epochs"]) for row in rows} == {("2", "20", "8")}
    assert len({row["value"] for row in rows}) > 4, "the detectors cannot be told apart by what they find"
    page = Page()
    page.feed((folder / "whole" / f"{STEM}.html").read_text())
    assert f"shortened: {len(TEST)} of 1000 images, 2 of 20 iterations" in page.text
    assert f"{float(rows[5]['value']):.2f} (1 seed); successes alone" in page.text
    assert len(page.loads) == 2  # every seed as a dot, and ROC curves


@pytest.mark.parametrize(
    ("row", "detector"),
    [("softmax+KD", "k-density"), ("RCE+KD", "k-density"), ("GM+KD", "k-density"), ("GM likelihood", "gm-likelihood")],
)
def test_the_figures_are_those_of_plain_loops(row: str, detector: str, attacks: Attacks) -> None:
    folder = attacks.folder
    (line,) = (one for one in rows_of(folder / "whole" / f"{STEM}.csv") if one["row"] == f"MNIST: {row}")
    cell = next(cell for cell in attacks.cells.values() if cell.name == line["cell"])
    run, files = (folder / "whole" / "cells" / one.name for one in (cell.needs[0], cell))
    classifier, clean, labels = load_classifier(run / "classifier.safetensors"), digits(TEST, 1), torch.tensor(TEST)
    with torch.no_grad():
        is_right = classifier(clean).argmax(dim=1) == labels
    clean, labels = clean[is_right], labels[is_right]
    made = [load_file(files / "attacked" / f"{number}.safetensors") for number in range(-(-len(clean) // BATCH))]
    attacked, targets = (torch.cat([one[name] for one in made]) for name in ("images", "targets"))
    assert (targets != labels).all()
    assert (attacked - clean).abs().amax() == pytest.approx(0.02, abs=1e-6)
    with torch.no_grad():
        is_fooled = (classifier(attacked).argmax(dim=1) == targets).numpy()
    normal, other = scores(detector, run, clean), scores(detector, run, attacked)
    numbers = json.loads((files / RESULT_FILE).read_bytes())["numbers"]
    expected = {
        "auc": area(normal, other),
        "auc_of_successes": area(normal[is_fooled], other[is_fooled]),
        **{
            f"undetected_at_{rate}": 100 * np.mean(is_fooled & (other >= np.sort(normal)[rate * len(normal) // 100]))
            for rate in (1, 5, 10)
        },
    }
    assert {name: numbers[f"{name}:{detector}"] for name in expected} == pytest.approx(expected, abs=0.05)
    assert float(line["value"]) == pytest.approx(expected["auc"], abs=0.05)
    changes = [255 * np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(clean.numpy(), attacked.numpy(), strict=True)]
    assert numbers["success"] == pytest.approx(100 * is_fooled.mean())
    assert numbers["distortion"] == pytest.approx(np.mean(np.array(changes)[is_fooled]), rel=1e-4)
    assert numbers["attacked"] == len(clean)


def test_black_box_images_are_judged_by_the_other_network(folder: Path) -> None:
    """Made with the one and its own density; right and fooled are what the judge says, by its own detector."""
    options = Options(
        name="table11", output=folder / "black", config=Path("small.yaml"), images=20, iterations=3,
        filters=["MNIST: GM+KD", "seed 0"],
    )  # fmt: skip
    work = write_networks(options).work
    given = ["--images=20", "--attack-iterations=3", "--filter=MNIST: GM+KD", "--filter=seed 0"]
    command = begin(folder, "table11", "--output=black", *given, name="black.txt", code=PAGELESS)
    assert command.wait(200) == 0, command.output
    (line,) = rows_of(folder / "black" / "table11-small-20images-3attack-iterations.csv")
    assert (line["iterations"], line["of_iterations"]) == ("3", "1000")
    (cell,) = (one for one in work if isinstance(one, AttackCell))
    made_with, judge = (folder / "black" / "cells" / one.name for one in cell.needs)
    assert made_with != judge
    numbers = np.linspace(0, len(TEST) - 1, 20).astype(int)
    clean, labels = digits(TEST, 1)[numbers], torch.tensor(TEST)[numbers]
    classifier = load_classifier(judge / "classifier.safetensors")
    with torch.no_grad():
        is_right = classifier(clean).argmax(dim=1) == labels
    files = sorted((folder / "black" / "cells" / cell.name / "attacked").iterdir())
    made = [load_file(file) for file in files]
    attacked, targets = (torch.cat([one[name] for one in made]) for name in ("images", "targets"))
    assert len(attacked) == is_right.sum()
    normal, other = scores("k-density", judge, clean[is_right]), scores("k-density", judge, attacked)
    assert float(line["value"]) == pytest.approx(area(normal, other), abs=0.05)
    assert area(normal, other) != pytest.approx(area(normal, scores("k-density", made_with, attacked)), abs=0.5)
    with torch.no_grad():
        is_fooled = classifier(attacked).argmax(dim=1) == targets
    assert float(line["success"]) == pytest.approx(100 * is_fooled.double().mean().item(), abs=1e-3)


# ------------------------------------------------------------------------------------------------- interruptions


def test_killed_while_it_attacks_it_loses_a_batch_at_most_and_ends_in_the_same_table(folder: Path) -> None:
    """Two commands at once go on with it, and share what is left; batches that were there are not made again."""
    output = folder / "killed"
    shutil.copytree(folder / "networks", output)
    killed = begin(
        folder, "table7", "--output=killed", "--jobs=2", *ARGUMENTS, name="killed.txt", code=SLOWLY + PAGELESS
    )
    killed.wait_until(lambda: len(batches(output)) >= 3, 120)
    killed.signal_group(signal.SIGKILL)
    killed.wait()
    before = batches(output)
    print(f"killed with {len(before)} batches of {len(batches(folder / 'whole'))}")
    assert 3 <= len(before) < len(batches(folder / "whole"))
    damaged = output / min(before)
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    commands = [
        begin(folder, "table7", "--output=killed", "--jobs=1", *ARGUMENTS, name=f"killed-{number}.txt", code=PAGELESS)
        for number in range(2)
    ]
    for command in commands:
        assert command.wait(200) == 0, command.output
    done = [set(re.findall(r"^done    (\w+)", command.output, flags=re.MULTILINE)) for command in commands]
    assert len(done[0] | done[1]) == ATTACKS
    assert not done[0] & done[1]
    after = batches(output)
    assert {file: after[file] for file in before if output / file != damaged} == {
        file: made for file, made in before.items() if output / file != damaged
    }
    log = damaged.parents[1].with_suffix(".log").read_text()
    assert f"{damaged.name}: damaged; these images are attacked anew" in log
    for file in after:
        assert (output / file).read_bytes() == (folder / "whole" / file).read_bytes()
    assert (output / f"{STEM}.csv").read_text() == (folder / "whole" / f"{STEM}.csv").read_text()


def test_networks_are_trained_first_and_a_failed_one_leaves_out_its_attacks(attacks: Attacks) -> None:
    """The network of RCE is somebody's folder of photos, that of softmax is trained, that of GM is there already."""
    names = {title.removeprefix("MNIST: "): cell.name for title, cell in attacks.cells.items()}
    network, attack, gm = (
        names[title]
        for title in (
            "network of MNIST: softmax+KD, BIM, seed 0",
            "softmax+KD, BIM, seed 0",
            "network of MNIST: GM+KD, BIM, seed 0",
        )
    )
    output = attacks.folder / "first"
    spoilt = output / "cells" / names["network of MNIST: RCE+KD, BIM, seed 0"]
    spoilt.mkdir(parents=True)
    (spoilt / "holiday.jpg").touch()
    shutil.copytree(attacks.folder / "networks" / "cells" / gm, output / "cells" / gm)
    given = [*ARGUMENTS, "--filter=+KD"]
    command = begin(attacks.folder, "table7", "--output=first", "--jobs=2", *given, name="first.txt", code=PAGELESS)
    assert command.wait(200) == 1
    begun = re.findall(r"^begins  (\w+)", command.output, flags=re.MULTILINE)
    assert gm not in begun
    assert begun.index(network) < begun.index(attack)
    assert "1 of 6 cells have failed; see " in command.output
    assert "; 1 that need them are not done" in command.output
    assert [row["row"].partition(": ")[2] for row in rows_of(output / f"{STEM}.csv")] == [
        *("softmax+KD", "I-defender", "LID", "GM+KD", "GM likelihood"),
    ]
