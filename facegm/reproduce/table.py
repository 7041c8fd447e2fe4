"""The results of a grid as a table: on the console, and as a CSV file with a line a cell, column and seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from facegm.reproduce.cells import Cell, Result
from facegm.reproduce.experiment import Column, Experiment, Row

CSV_COLUMNS = (
    *("row", "column", "seed", "metric", "value", "best_epoch_value", "epochs", "of_epochs", "cell"),
    *("paper", "paper_source", "like_recipe", "like_recipe_source", "device", "precision", "torch"),
)


@dataclass(frozen=True)
class Entry:
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


Results = Mapping[str, Result]
"""What finished cells have come to, by their names."""


def values_at(entries: Sequence[Entry], results: Results, row: Row, column: Column, *, which: str = "") -> list[float]:
    """Our figures of a row and column, one a finished seed.

    Args:
        entries: of the whole grid.
        results: of finished cells.
        row: which row.
        column: which column.
        which: empty for the last epoch, `best_` for the best one.
    """
    cells = [p.cell.name for p in entries if p.row is row and p.column is column and p.cell.name in results]
    name = f"{which}{column.metric}"
    return [results[cell].numbers[name] for cell in cells if name in results[cell].numbers]


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation over seeds where there are several, and how many they are."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{mean(values):.2f} ± {stdev(values):.2f} ({len(values)} seeds)"


def length_of(entries: Sequence[Entry]) -> str:
    """In words, how much shorter than the whole schedule the runs are; empty where they are not."""
    lengths = sorted({(p.cell.config.train.epochs, p.whole_epochs) for p in entries})
    if all(epochs >= whole for epochs, whole in lengths):
        return ""
    return "shortened: " + ", ".join(f"{epochs:g} of {whole:g} epochs" for epochs, whole in lengths)


def to_csv(experiment: Experiment, entries: Sequence[Entry], results: Results) -> str:
    """A line a finished entry, in the grid's order; the same results make the same bytes."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for p in entries:
        result, metric = results.get(p.cell.name), p.column.metric
        if result is not None and metric in result.numbers:
            best = result.numbers.get(f"best_{metric}")
            values = [f"{result.numbers[metric]:.4f}", "" if best is None else f"{best:.4f}"]
            epochs = f"{p.cell.config.train.epochs:g}", f"{p.whole_epochs:g}"
            at = p.row.title, p.column.title
            others = [figures.get(at) for figures in (experiment.paper, experiment.peers)]
            published = [
                text for one in others for text in (("", "") if one is None else (f"{one.mean:g}", one.source))
            ]
            machine = [result.machine[key] for key in ("device", "precision", "torch")]
            lines.writerow([*at, p.seed, metric, *values, *epochs, p.cell.name, *published, *machine])
    return text.getvalue()


def to_text(experiment: Experiment, entries: Sequence[Entry], results: Results) -> str:
    """The table for a console: a line a row and column, ours beside the paper's and the best known like it."""
    rows = [("", "", "last epoch", "best validated epoch", "paper", "best known of a like recipe")]
    for row in experiment.rows:
        length = length_of([p for p in entries if p.row is row])
        for column in experiment.columns:
            ours, best = (spread(values_at(entries, results, row, column, which=w)) for w in ("", "best_"))
            at = row.title, column.title
            paper, peer = (str(figures.get(at, "-")) for figures in (experiment.paper, experiment.peers))
            rows.append((f"{row.title}{f' [{length}]' if length else ''}", column.title, ours, best, paper, peer))
    widths = [max(len(line[number]) for line in rows) for number in range(len(rows[0]))]
    length = length_of(entries)
    head = [experiment.title, *([f"with a budget, {length}"] if length else [])]
    body = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*head, "", *body, "", *experiment.notes])
