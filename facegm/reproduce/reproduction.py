"""A table or figure made again: its cells done or gone on with, and the results beside what was published."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from facegm.classification.config import ImageRunConfig
from facegm.config import find_config, parse_config, task_of
from facegm.data.files import replace_atomically
from facegm.errors import UsageError
from facegm.faces.config import FaceRunConfig
from facegm.reproduce.budget import Budget, seconds_of, share_of_budget, shortened
from facegm.reproduce.cells import Cell
from facegm.reproduce.experiments import EXPERIMENTS, changed
from facegm.reproduce.grid import Grid
from facegm.reproduce.presentation import write_page
from facegm.reproduce.table import Place, Results, to_csv, to_text


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a table or figure is to be made again."""

    name: str
    """Which, such as table1."""
    data: Path = Path("data")
    """Folder with a folder for each set, named as its configuration is: mnist, cifar10, cifar100, imagenet; for faces
    the store, casia, and lfw."""
    output: Path = Path("reproduced")
    config: str | None = None
    """A configuration in place of the shipped one."""
    budget: Budget | None = None
    filters: Sequence[str] = ()
    """Texts that a cell's title must hold, all of them."""
    part: tuple[int, int] = (1, 1)
    """Which of how many parts of the cells to do, from 1 on."""
    jobs: int = 1
    """Runs side by side."""
    gpus: int = 0
    """Of this machine."""


class Reproduction:
    """The grid of a table or figure.

    Args:
        options: which, and how.

    Raises:
        UsageError: there is no cell of that title.
        FacegmError: a configuration cannot be read.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.experiment = EXPERIMENTS[options.name]
        self.cells_folder = options.output / "cells"
        budget = "" if options.budget is None else f"-{options.budget.text}"
        self.stem = options.output / f"{options.name}{budget}"
        self.places = self._places()
        chosen = [p for p in self.places if all(text.lower() in p.title.lower() for text in options.filters)]
        if not chosen:
            titles = "; ".join(p.title for p in self.places[:4])
            raise UsageError(
                f"--filter: no cell has all of {', '.join(options.filters)} in its title, such as {titles}"
            )
        by_name = {p.cell.name: p for p in reversed(chosen)}
        names = list(dict.fromkeys(p.cell.name for p in chosen))
        number, count = options.part
        self.chosen = [by_name[name] for name in names[number - 1 :: count]]

    def run(self) -> str:
        """Do what is not done, and write table and page; the results as text, with those two files.

        Raises:
            FacegmError: cells have failed; what is done stands in the results.
            StoppedError: a signal came; likewise.
        """
        titles = {p.cell: p.title for p in self.chosen}
        try:
            Grid(titles, self.cells_folder, jobs=self._options.jobs, gpus=self._options.gpus).run()
        finally:
            results = self.results()
            with self._alone():
                table = self.stem.with_name(f"{self.stem.name}.csv")
                replace_atomically(table, to_csv(self.places, results).encode())
        with self._alone():
            name = self._options.name
            page = write_page(name, self.experiment, self.places, results, self.cells_folder, self.stem)
        return f"{to_text(self.experiment, self.places, results)}\n\n{table}\n{page}"

    def results(self) -> Results:
        """The numbers of all cells that are finished."""
        found = {p.cell.name: p.cell.result(self.cells_folder) for p in self.places}
        return {name: numbers for name, numbers in found.items() if numbers is not None}

    def plan(self) -> str:
        """The cells that would be done, how they stand, and how long they would take here."""
        lines, left = [], 0.0
        results = self.results()
        for place, seconds in zip(self.chosen, seconds_of([p.cell.config for p in self.chosen]), strict=True):
            name, epochs = place.cell.name, place.cell.config.train.epochs
            state = "to do"
            if name in results:
                state, seconds = "done", 0.0
            elif self.cells_folder.is_dir() and place.cell.is_taken(self.cells_folder):
                state = "in work"
            left += seconds
            time = timedelta(seconds=round(seconds))
            lines.append(f"{name}  {state:<7}  {epochs:>6g} epochs  {time!s:>16}  {place.title}")
        total = timedelta(seconds=round(left / self._options.jobs))
        lines.append(f"{len(self.chosen)} cells, {total} with {self._options.jobs} side by side, by steps not compiled")
        return "\n".join(lines)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other command that shares the output folder writes results."""
        with (self._options.output / ".lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield

    def _places(self) -> list[Place]:
        experiment, o = self.experiment, self._options
        bases = {row.config: self._base(row.config or o.config or experiment.config) for row in experiment.rows}
        whole = [
            (row, column, seed, changed(bases[row.config], {**row.overrides, **column.overrides, "train.seed": seed}))
            for row, column, seed in experiment.places()
        ]
        share = 1.0
        if o.budget is not None:
            distinct = {Cell(config).name: config for *_, config in whole}
            file = self.stem.with_name(f"{self.stem.name}.json")
            share = share_of_budget(o.budget, list(distinct.values()), file, jobs=o.jobs)
        places = []
        for row, column, seed, config in whole:
            epochs = config.train.epochs if o.budget is None else o.budget.epochs_of(config, share)
            cell = Cell(shortened(config, epochs), self._lfw(config))
            places.append(Place(row, column, seed, cell, config.train.epochs))
        return places

    def _base(self, name: str) -> ImageRunConfig | FaceRunConfig:
        """A configuration, with its data where the options say they lie."""
        path = find_config(name)
        folder = self._options.data / path.stem
        if task_of(path) is None:
            return changed(parse_config(path, FaceRunConfig), {"data.store": folder})
        return changed(parse_config(path, ImageRunConfig), {"data.folder": folder})

    def _lfw(self, config: ImageRunConfig | FaceRunConfig) -> Path | None:
        return self._options.data / "lfw" if isinstance(config, FaceRunConfig) else None
