"""Pictures of attacks for a table's page: ROC curves of its rows, and the histograms of Fig. 5."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import roc_curve

from facegm.adversarial.attack_charts import draw_histograms
from facegm.data.charts import COLORS, INK, drawn, write_svg
from facegm.data.weights import read_weights
from facegm.reproduce.attack_cells import SCORES_FILE
from facegm.reproduce.experiment import Column, Experiment, Row
from facegm.reproduce.page import Chart
from facegm.reproduce.table import Entry, Results

Scores = Float64[np.ndarray, " images"]


def draw_roc_curves(
    experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, stem: Path
) -> Iterator[Chart]:
    """The curves of each row's detector, of seed 0: a part for each attack and set of images; see `write_page`."""
    columns = [column for column in experiment.columns if column.metric == "auc"]
    sets = list(dict.fromkeys(_set_of(row) for row in experiment.rows))
    file = stem.with_name(f"{stem.name}-roc.svg")
    with drawn(0.6 + 2.9 * len(columns), 0.9 + 2.9 * len(sets)) as figure:
        every = figure.subplots(len(sets), len(columns), squeeze=False)
        drawn_curves = 0
        for name, of_set in zip(sets, every, strict=True):
            rows = [row for row in experiment.rows if _set_of(row) == name]
            for column, axes in zip(columns, of_set, strict=True):
                for number, row in enumerate(rows):
                    found = _scores_of_seed_0(entries, results, cells, row, column)
                    if found is None:
                        continue
                    clean, attacked = found
                    is_attacked = np.repeat([False, True], [len(clean), len(attacked)])
                    false_alarms, detected, _ = roc_curve(is_attacked, -np.concatenate([clean, attacked]))
                    color, line = COLORS[number % len(COLORS)], "-" if number < len(COLORS) else "--"
                    axes.plot(false_alarms, detected, color=color, linestyle=line, label=_in_set(row))
                    drawn_curves += 1
                axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
                axes.set(title=", ".join(part for part in (name, column.title) if part), ylim=(0, 1.02))
        if not drawn_curves:
            return
        figure.supxlabel("clean images with a false alarm")
        figure.supylabel("attacked images detected")
        labelled = {
            text: line for axes in every.flat for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4)
        write_svg(file, figure)
    yield Chart(
        "ROC curves", "Of the networks with seed 0, over all attacked images, whether they fool them or not.", file
    )


def draw_density_histograms(
    experiment: Experiment, entries: Sequence[Entry], results: Results, cells: Path, stem: Path
) -> Iterator[Chart]:
    """Fig. 5: the density of test images before and after each attack, a column for each loss; see `write_page`."""
    file = stem.with_name(f"{stem.name}-histograms.svg")
    found = {
        (row.title, column.title): _scores_of_seed_0(entries, results, cells, row, column)
        for column in experiment.columns
        for row in experiment.rows
    }
    if not all(found.values()):
        return
    with drawn(4.6 * len(experiment.rows), 0.6 + 2.5 * len(experiment.columns)) as figure:
        every = figure.subplots(len(experiment.columns), len(experiment.rows), squeeze=False)
        for column, line in zip(experiment.columns, every, strict=True):
            for row, axes in zip(experiment.rows, line, strict=True):
                scores = found[row.title, column.title]
                assert scores is not None
                draw_histograms(axes, scores[0], {column.title: scores[1]})
                axes.set(title=f"{row.title}, {column.title}", xlabel="log density", ylabel="share of the images")
                axes.legend(loc="upper left")
        write_svg(file, figure)
    yield Chart(
        experiment.title,
        "Log of the K-density, up to a constant, of test images that are classified right, and of the same images "
        "after the attack. What lies beyond the bins is counted in the outermost.",
        file,
    )


def _scores_of_seed_0(
    entries: Sequence[Entry], results: Results, cells: Path, row: Row, column: Column
) -> tuple[Scores, Scores] | None:
    """What the row's detector makes of clean and of attacked images; None where that is not done."""
    cell = next(p.cell for p in entries if p.row is row and p.column is column and p.seed == 0)
    if cell.name not in results:
        return None
    scores = read_weights(cells / cell.name / SCORES_FILE).tensors
    clean, attacked = (scores[f"{row.detector}/{state}"].numpy() for state in ("clean", "attacked"))
    return clean, attacked


def _set_of(row: Row) -> str:
    """The images that a row is of, where its title says it."""
    return row.title.partition(": ")[0] if ": " in row.title else ""


def _in_set(row: Row) -> str:
    return row.title.partition(": ")[2] or row.title
