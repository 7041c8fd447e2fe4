"""The results of a grid as a table: on the console, and as a CSV file with a line a cell, column and seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from facegm.reproduce.cells import Cell
from facegm.reproduce.experiments import Column, Experiment, Row

CSV_COLUMNS = ("row", "column", "seed", "metric", "value", "best_epoch_value", "epochs", "of_epochs", "cell")


@dataclass(frozen=True)
class Place:
    """Where a cell stands in the table; several columns may show numbers of the same one."""

    row: Row
    column: Column
    seed: int
    cell: Cell
    whole_epochs: float
    """Epochs of the whole schedule."""

    @property
    def title(self) -> str:
        """In words, to be filtered by."""
        return f"{self.row.title}, {self.column.title}, seed {self.seed}"


Results = Mapping[str, Mapping[str, float]]
"""The numbers of finished cells, by their names."""


def values_at(places: Sequence[Place], results: Results, row: Row, column: Column, *, which: str = "") -> list[float]:
    """Our figures of a row and column, one a finished seed.

    Args:
        places: of the whole grid.
        results: of finished cells.
        row: which row.
        column: which column.
        which: empty for the last epoch, `best_` for the best one.
    """
    cells = [p.cell.name for p in places if p.row is row and p.column is column and p.cell.name in results]
    name = f"{which}{column.metric}"
    return [results[cell][name] for cell in cells if name in results[cell]]


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation over seeds where there are several, and how many they are."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{mean(values):.2f} ± {stdev(values):.2f} ({len(values)} seeds)"


def length_of(places: Sequence[Place]) -> str:
    """In words, how much shorter than the whole schedule the runs are; empty where they are not."""
    lengths = sorted({(p.cell.config.train.epochs, p.whole_epochs) for p in places})
    if all(epochs >= whole for epochs, whole in lengths):
        return ""
    return "shortened: " + ", ".join(f"{epochs:g} of {whole:g} epochs" for epochs, whole in lengths)


def to_csv(places: Sequence[Place], results: Results) -> str:
    """A line a finished place, in the grid's order; the same results make the same bytes."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for p in places:
        numbers = results.get(p.cell.name, {})
        if p.column.metric in numbers:
            best = numbers.get(f"best_{p.column.metric}")
            values = [f"{numbers[p.column.metric]:.4f}", "" if best is None else f"{best:.4f}"]
            epochs = f"{p.cell.config.train.epochs:g}", f"{p.whole_epochs:g}"
            lines.writerow([p.row.title, p.column.title, p.seed, p.column.metric, *values, *epochs, p.cell.name])
    return text.getvalue()


def to_text(experiment: Experiment, places: Sequence[Place], results: Results) -> str:
    """The table for a console: a line a row and column, ours beside the paper's and the best known like it."""
    rows = [("", "", "last epoch", "best epoch", "paper", "best known of a like recipe")]
    for row in experiment.rows:
        length = length_of([p for p in places if p.row is row])
        for column in experiment.columns:
            ours, best = (spread(values_at(places, results, row, column, which=w)) for w in ("", "best_"))
            at = row.title, column.title
            paper, peer = (str(figures.get(at, "-")) for figures in (experiment.paper, experiment.peers))
            rows.append((f"{row.title}{f' [{length}]' if length else ''}", column.title, ours, best, paper, peer))
    widths = [max(len(line[number]) for line in rows) for number in range(len(rows[0]))]
    length = length_of(places)
    head = [experiment.title, *([f"with a budget, {length}"] if length else [])]
    body = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*head, "", *body, "", *experiment.notes])
