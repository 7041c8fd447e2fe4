"""Protects the verdict's table: figures are those of plain loops over its images, and whatever is killed ends alike."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_grids import (
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
from torch import Tensor

from facegm.classification.classifier import load_classifier
from facegm.errors import FacegmError
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.reproduction import Options, Reproduction
from facegm.reproduce.verdict_cells import VERDICT_FILE, VerdictCell, verdicts_of

IMAGES, ITERATIONS = 20, 6
GM = Options(name="verdict", config=Path("small.yaml"), filters=["MNIST: GM"], images=IMAGES, iterations=ITERATIONS)
SHORT = [f"--images={IMAGES}", f"--attack-iterations={ITERATIONS}"]
STEM = f"verdict-small-{IMAGES}images-{ITERATIONS}attack-iterations"
BOUNDS = ("0.05", "0.1", "0.2", "0.3", "0.5", "1")
WAYS = {
    **{f"white-box-{ITERATIONS}-within-{bound}": float(bound) for bound in BOUNDS},
    f"white-box-{2 * ITERATIONS}-within-0.1": 0.1,
    f"network-{ITERATIONS}-within-0.1": 0.1,
    "substitute": 0.1,
    "gradient-free": 0.1,
}
"""The folders of attacked images, and how far a pixel of theirs may be from the clean one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Digits, networks in `networks`, and in `whole` what an undisturbed command makes of them, `output.txt`."""
    folder = tmp_path_factory.mktemp("verdict")
    write_digits(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facegm.models.image_network.CIFAR_DEPTHS", DEPTHS)
        patch.chdir(folder)
        write_networks(replace(GM, output=Path("networks")))
        shutil.copytree("networks", "whole")
        command = begin(folder, "verdict", "--output=whole", "--jobs=2", "--filter=MNIST: GM", *SHORT)
        assert command.wait(300) == 0, command.output
        yield folder


@pytest.fixture(scope="module")
def reproduction(folder: Path) -> Reproduction:
    """Of what is in `whole`."""
    return Reproduction(replace(GM, output=folder / "whole"))


def cell_of(reproduction: Reproduction, row: str) -> VerdictCell:
    (cell,) = {p.cell.name: p.cell for p in reproduction.chosen if p.row.title == f"MNIST: {row}"}.values()
    assert isinstance(cell, VerdictCell)
    return cell


def images_of(files: Path, way: str) -> dict[str, Tensor]:
    made = [load_file(file) for file in sorted((files / "attacked" / way).iterdir())]
    return {name: torch.cat([one[name] for one in made]) for name in made[0]}


@pytest.mark.parametrize(("row", "detector"), [("GM+KD", "k-density"), ("GM likelihood", "gm-likelihood")])
def test_the_figures_are_those_of_plain_loops(
    row: str, detector: str, folder: Path, reproduction: Reproduction
) -> None:
    cell = cell_of(reproduction, row)
    run, other, files = (folder / "whole" / "cells" / one.name for one in (*cell.needs, cell))
    assert run != other
    classifier, substitute = (load_classifier(one / "classifier.safetensors") for one in (run, other))
    chosen = np.linspace(0, len(TEST) - 1, IMAGES).astype(int)
    clean, labels = digits(TEST, 1)[chosen], torch.tensor(TEST)[chosen]
    with torch.no_grad():
        is_right = classifier(clean).argmax(dim=1) == labels
    clean, labels = clean[is_right], labels[is_right]
    assert len(clean) > 10
    normal = scores(detector, run, clean)
    targets = images_of(files, "substitute")["targets"]
    assert (targets != labels).all()

    def undetected(way: str, rate: int) -> float:
        attacked = images_of(files, way)["images"]
        with torch.no_grad():
            is_fooled = (classifier(attacked).argmax(dim=1) == targets).numpy()
        passes = scores(detector, run, attacked) >= np.sort(normal)[rate * len(normal) // 100]
        return 100 * float(np.mean(is_fooled & passes))

    assert {path.name for path in (files / "attacked").iterdir()} == set(WAYS)
    for way, bound in WAYS.items():
        found = images_of(files, way)
        assert torch.equal(found["targets"], targets), "all attacks have the same goal"
        steps = {"gradient-free": 10, f"white-box-{2 * ITERATIONS}-within-0.1": 2 * ITERATIONS}.get(way, ITERATIONS)
        largest = (found["images"] - clean).abs().amax().item()
        assert 0.01 - 1e-6 <= largest <= min(bound, 0.01 * steps) + 1e-6
    numbers = json.loads((files / RESULT_FILE).read_bytes())["numbers"]
    main = f"white-box-{ITERATIONS}-within-0.1"
    expected = {
        "auc": area(normal, scores(detector, run, images_of(files, main)["images"])),
        **{f"undetected_at_{rate}": undetected(main, rate) for rate in (1, 5, 10)},
        **{f"undetected_within_{bound}": undetected(f"white-box-{ITERATIONS}-within-{bound}", 5) for bound in BOUNDS},
        "doubled_at_5": undetected(f"white-box-{2 * ITERATIONS}-within-0.1", 5),
        "transferred_at_5": undetected("substitute", 5),
        "gradient_free_at_5": undetected("gradient-free", 5),
        "attacked": len(clean),
        "zero_gradients": 0.0,
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=0.05)
    assert max(numbers[f"undetected_within_{bound}"] for bound in BOUNDS) > 20, "the attack does something"
    with torch.no_grad():
        alone = images_of(files, f"network-{ITERATIONS}-within-0.1")["images"]
        twin = 100 * (classifier(alone).argmax(dim=1) == targets).double().mean().item()
        transferred = images_of(files, "substitute")["images"]
        gains = [
            (one(transferred) - one(clean)).gather(1, targets[:, None]).mean().item() / one(clean).std().item()
            for one in (substitute, classifier)
        ]
    assert numbers["undefended"] == pytest.approx(twin)
    assert numbers["broken_at_5"] <= twin + 1e-9
    assert gains[0] > gains[1], "the substitute's own images are made for it"


def test_the_verdict_stands_in_words_under_the_table(folder: Path, reproduction: Reproduction) -> None:
    rows = rows_of(folder / "whole" / f"{STEM}.csv")
    assert {row["row"] for row in rows} == {"MNIST: GM+KD", "MNIST: GM likelihood"}
    assert {row["of_images"] for row in rows} == {"1000"}
    assert {row["of_iterations"] for row in rows} == {"200"}
    page = Page()
    page.feed((folder / "whole" / f"{STEM}.html").read_text())
    output = (folder / "output.txt").read_text()
    for row, detector in (("GM+KD", "k-density"), ("GM likelihood", "gm-likelihood")):
        cell = cell_of(reproduction, row)
        words = json.loads((folder / "whole" / "cells" / cell.name / VERDICT_FILE).read_bytes())
        paragraph = f"MNIST: {row}, seed 0: {' '.join(words['sentences'])}"
        assert f"{detector} under orthogonal PGD (epsilon 0.1, {ITERATIONS} iterations)" in paragraph
        assert paragraph in output
        assert paragraph in page.text
        assert words["claims_robustness"] == ("No robustness claimed" not in paragraph)


def test_killed_it_loses_a_batch_at_most_and_ends_in_the_same_figures(folder: Path, reproduction: Reproduction) -> None:
    output = folder / "killed"
    shutil.copytree(folder / "networks", output)
    given = ["verdict", "--output=killed", "--filter=MNIST: GM likelihood", *SHORT]

    def batches() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in output.glob("cells/*/attacked/*/*.safetensors")}

    killed = begin(folder, *given, name="killed.txt", code=SLOWLY + PAGELESS)
    killed.wait_until(lambda: len(batches()) >= 3, 120)
    killed.signal_group(signal.SIGKILL)
    killed.wait()
    before = batches()
    assert 3 <= len(before) < 2 * len(WAYS)
    command = begin(folder, *given, name="again.txt", code=PAGELESS)
    assert command.wait(200) == 0, command.output
    after = batches()
    assert len(after) == 2 * len(WAYS)
    assert {file: after[file] for file in before} == before
    result = Path("cells", cell_of(reproduction, "GM likelihood").name, RESULT_FILE)
    found, expected = (json.loads((folder / name / result).read_bytes()) for name in ("killed", "whole"))
    assert found == expected


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"{}"])
def test_words_that_are_damaged_are_missed(content: bytes | None, reproduction: Reproduction, tmp_path: Path) -> None:
    name = cell_of(reproduction, "GM likelihood").name
    (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / name / VERDICT_FILE).write_bytes(content)
    with pytest.raises(FacegmError, match=r"verdict\.json: missing or damaged; remove .*result\.json"):
        verdicts_of(reproduction.chosen, reproduction.results(), tmp_path)
