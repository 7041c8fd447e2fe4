"""Protects the pictures of attacks: each curve is of the row and attack that it is said to be of, of right scores."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegm.data.weights import write_weights
from facegm.reproduce.attack_cells import SCORES_FILE
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.presentation import write_page
from facegm.reproduce.reproduction import Options, Reproduction

DETECTORS = ("k-density", "gm-likelihood")


class Made:
    """A table or figure whose cells are made up: random scores of 30 clean and 20 attacked images each."""

    def __init__(self, name: str, output: Path, *, without: str = "nothing") -> None:
        self.plan = Reproduction(Options(name=name, output=output))
        self.scores: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}
        rng, made = np.random.default_rng(0), dict[str, dict[str, np.ndarray]]()
        for entry in self.plan.entries:
            if without in entry.title:
                continue
            name_of_cell = entry.cell.name
            if name_of_cell not in made:
                shift = rng.uniform(0, 3)
                made[name_of_cell] = {
                    f"{detector}/{state}": rng.normal(shift if state == "clean" else 0, 1 + number, count)
                    for number, detector in enumerate(DETECTORS)
                    for state, count in (("clean", 30), ("attacked", 20))
                }
                folder = self.plan.cells_folder / name_of_cell
                folder.mkdir(parents=True)
                tensors = {key: torch.from_numpy(some) for key, some in made[name_of_cell].items()}
                write_weights(folder / SCORES_FILE, tensors, {})
                result = {"numbers": {"auc": 50.0}, "data": "none", "machine": {}}
                (folder / RESULT_FILE).write_text(json.dumps(result))
            if entry.seed == 0:
                clean, attacked = (made[name_of_cell][f"{entry.row.detector}/{s}"] for s in ("clean", "attacked"))
                self.scores[entry.row.title, entry.column.title, entry.column.metric] = clean, attacked
        self.name, self.stem = name, output / name

    def page(self) -> str:
        p = self.plan
        return write_page(self.name, p.experiment, p.entries, p.results(), p.cells_folder, self.stem).read_text()


def area_under(line: Any) -> float:
    """Of a curve of straight pieces."""
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2))


def test_roc_curves_are_of_the_rows_detectors_on_their_own_images(tmp_path: Path, figures: list[Any]) -> None:
    made = Made("table11", tmp_path, without="RCE")
    assert "ROC curves" in made.page()
    every = figures[-1].axes
    assert [axes.get_title() for axes in every] == ["MNIST, AUC (%)", "CIFAR-10, AUC (%)"]
    for axes, images in zip(every, ("MNIST", "CIFAR-10"), strict=True):
        lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert list(lines) == ["softmax+KD", "GM+KD", "GM likelihood"]
        for title, line in lines.items():
            clean, attacked = made.scores[f"{images}: {title}", "AUC (%)", "auc"]
            pairs = np.mean([a > b for a in clean for b in attacked])
            assert area_under(line) == pytest.approx(pairs, abs=1e-9), title


def test_fig5_has_a_histogram_for_each_loss_and_attack(tmp_path: Path, figures: list[Any]) -> None:
    made = Made("fig5", tmp_path)
    assert "K-density" in made.page()
    assert (tmp_path / "fig5-histograms.svg").is_file()
    every = figures[-1].axes
    assert [axes.get_title() for axes in every] == [
        f"CIFAR-10: {loss}+KD, {attack}" for attack in ("FGSM", "BIM", "C&W") for loss in ("softmax", "GM")
    ]
    for axes in every:
        row, _, column = axes.get_title().rpartition(", ")
        for patch, scores in zip(axes.patches, made.scores[row, column, "auc"], strict=True):
            values, edges, _ = patch.get_data()
            inner = [np.mean((low <= scores) & (scores < high)) for low, high in pairwise(edges[1:-1])]
            assert values[1:-1] == pytest.approx(inner)
            assert values.sum() == pytest.approx(1)


def test_without_all_its_cells_fig5_says_which_are_lacking(tmp_path: Path, figures: list[Any]) -> None:
    page = Made("fig5", tmp_path, without="GM+KD, BIM").page()
    assert "There is no picture yet: these cells are not done: CIFAR-10: GM+KD, BIM, seed 0." in page
    assert figures == []
