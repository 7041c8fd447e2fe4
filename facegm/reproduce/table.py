"""The results of a grid as a table: on the console, and as a CSV file with a line a cell, column and seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

from facegm.reproduce.cells import Cell, Result
from facegm.reproduce.experiment import Column, Experiment, Row

_CSV_PUBLISHED = ("paper", "paper_source", "like_recipe", "like_recipe_source")
_CSV_MACHINE = ("device", "precision", "torch")


class Length(NamedTuple):
    """How much of something a cell has."""

    used: float
    whole: float
    """Without a budget."""


@dataclass(frozen=True)
class Entry:
    """Where a cell stands in the table; several columns may show numbers of the same one."""

    row: Row
    column: Column
    seed: int
    cell: Cell
    lengths: Mapping[str, Length]
    """Epochs of training; where there is an attack, also images that are attacked and iterations of a try."""

    @property
    def title(self) -> str:
        """In words, to be filtered by."""
        return f"{self.row.title}, {self.column.title}, seed {self.seed}"


Results = Mapping[str, Result]
"""What finished cells have come to, by their names."""


def values_at(
    entries: Sequence[Entry], results: Results, row: Row, column: Column, *, number: str = "{metric}"
) -> list[float]:
    """Our figures of a row and column, one a finished seed.

    Args:
        entries: of the whole grid.
        results: of finished cells.
        row: which row.
        column: which column.
        number: which of the numbers of its cells; see `Beside`.
    """
    found = [results[p.cell.name] for p in entries if p.row is row and p.column is column and p.cell.name in results]
    values = [_number(result, row, column, number) for result in found]
    return [value for value in values if value is not None]


def _number(result: Result, row: Row, column: Column, number: str) -> float | None:
    """One of the numbers of a cell: that of the row's detector, where each has its own."""
    name = number.format(metric=column.metric)
    return result.numbers.get(f"{name}:{row.detector}", result.numbers.get(name))


def texts_at(entries: Sequence[Entry], results: Results, row: Row, column: Column) -> dict[str, str]:
    """What stands beside our figures of a row and column, by its title."""
    texts = {}
    for beside in column.beside:
        values = [values_at(entries, results, row, column, number=number) for number in beside.numbers.values()]
        if len(values) == 1:
            texts[beside.title] = spread(values[0])
        else:
            texts[beside.title] = " / ".join(f"{mean(some):.2f}" for some in values) if all(values) else "-"
    return texts


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation over seeds where there are several, and how many they are."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{mean(values):.2f} ± {stdev(values):.2f} ({len(values)} seeds)"


def length_of(entries: Sequence[Entry]) -> str:
    """In words, how much shorter than without a budget the cells are; empty where they are not."""
    parts = []
    for unit in dict.fromkeys(unit for p in entries for unit in p.lengths):
        lengths = sorted({p.lengths[unit] for p in entries if unit in p.lengths})
        if any(used < whole for used, whole in lengths):
            parts += [f"{used:g} of {whole:g} {unit}" for used, whole in lengths]
    return f"shortened: {', '.join(parts)}" if parts else ""


def to_csv(experiment: Experiment, entries: Sequence[Entry], results: Results) -> str:
    """A line a finished entry, in the grid's order; the same results make the same bytes."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    beside = {name: None for column in experiment.columns for one in column.beside for name in one.numbers}
    units = list(dict.fromkeys(unit for p in entries for unit in p.lengths))
    length_columns = [name for unit in units for name in (unit, f"of_{unit}")]
    head = ["row", "column", "seed", "metric", "value", *beside, *length_columns, "cell"]
    lines.writerow([*head, *_CSV_PUBLISHED, *_CSV_MACHINE])
    for p in entries:
        result = results.get(p.cell.name)
        value = None if result is None else _number(result, p.row, p.column, "{metric}")
        if result is None or value is None:
            continue
        others = {name: number for one in p.column.beside for name, number in one.numbers.items()}
        numbers = [_number(result, p.row, p.column, others[name]) if name in others else None for name in beside]
        lengths = [f"{part:g}" for unit in units for part in p.lengths[unit]]
        at = p.row.title, p.column.title
        published = [figures.get(at) for figures in (experiment.paper, experiment.peers)]
        quoted = [text for one in published for text in (("", "") if one is None else (f"{one.mean:g}", one.source))]
        machine = [result.machine[key] for key in _CSV_MACHINE]
        values = ["" if one is None else f"{one:.4f}" for one in (value, *numbers)]
        lines.writerow([*at, p.seed, p.column.metric, *values, *lengths, p.cell.name, *quoted, *machine])
    return text.getvalue()


def to_text(experiment: Experiment, entries: Sequence[Entry], results: Results) -> str:
    """The table for a console: a line a row and column, ours beside the paper's and the best known like it."""
    beside = list(dict.fromkeys(one.title for column in experiment.columns for one in column.beside))
    rows = [("", "", experiment.ours, *beside, "paper", "best known of a like recipe")]
    for row in experiment.rows:
        length = length_of([p for p in entries if p.row is row])
        for column in experiment.columns:
            ours, texts = spread(values_at(entries, results, row, column)), texts_at(entries, results, row, column)
            at = row.title, column.title
            published = [str(figures.get(at, "-")) for figures in (experiment.paper, experiment.peers)]
            title = f"{row.title}{f' [{length}]' if length else ''}"
            rows.append((title, column.title, ours, *(texts.get(one, "-") for one in beside), *published))
    widths = [max(len(line[number]) for line in rows) for number in range(len(rows[0]))]
    length = length_of(entries)
    head = [experiment.title, *([f"with a budget, {length}"] if length else [])]
    body = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([*head, "", *body, "", *experiment.notes])
