"""A table or figure made again: its cells done or gone on with, and the results beside what was published."""

import fcntl
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from facegm.adversarial.recipe import AttackRecipe
from facegm.classification.config import ImageRunConfig
from facegm.config import find_config, parse_config, task_of
from facegm.data.files import replace_atomically
from facegm.errors import FacegmError, StoppedError, UsageError
from facegm.faces.config import FaceRunConfig
from facegm.reproduce.attack_cells import AttackCell
from facegm.reproduce.budget import Budget, Config, divided, seconds_of, shortened
from facegm.reproduce.cell_data import DataSets, RunConfig
from facegm.reproduce.cells import Cell
from facegm.reproduce.experiment import Row, changed
from facegm.reproduce.grid import Grid
from facegm.reproduce.paper import EXPERIMENTS
from facegm.reproduce.presentation import write_page
from facegm.reproduce.table import Entry, Length, Results, to_csv, to_text
from facegm.reproduce.trained_cells import TrainedCell
from facegm.reproduce.verdict_cells import VerdictCell, verdicts_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a table or figure is to be made again."""

    name: str
    """Which, such as table1."""
    data: Path = Path("data")
    """Folder with a folder for each set, named as its shipped configuration is: mnist, cifar10, cifar100, imagenet; for
    faces the store, casia, and lfw."""
    output: Path = Path("reproduced")
    config: Path | None = None
    """A configuration in place of the shipped one, whose data lie where it says."""
    budget: Budget | None = None
    filters: Sequence[str] = ()
    """Texts that a cell's title must hold, all of them."""
    images: int | None = None
    """Test images that are attacked, in place of the experiment's own number."""
    iterations: int | None = None
    """Of each try of an attack, at most."""
    part: tuple[int, int] = (1, 1)
    """Which of how many parts of the cells to do, from 1 on."""
    jobs: int = 1
    """Runs side by side."""
    gpus: int = 0
    """Of this machine."""
    is_dry: bool = False
    """Whether nothing is to be written."""


class Reproduction:
    """The grid of a table or figure.

    Args:
        options: which, and how.

    Raises:
        UsageError: there is no cell of that title, an attack is to be shortened where there is none, or a configuration
            is of another kind of run.
        FacegmError: a configuration cannot be read.
    """

    def __init__(self, options: Options) -> None:
        self._options, self._data = options, DataSets()
        self.experiment = EXPERIMENTS[options.name]
        self.cells_folder = options.output / "cells"
        parts = [options.name]
        if options.config is not None:
            parts.append(options.config.stem)
        if options.budget is not None:
            parts.append(options.budget.text)
        for option, number in (("images", options.images), ("attack-iterations", options.iterations)):
            if number is not None and not self.experiment.images:
                raise UsageError(f"--{option}: {options.name} attacks no images")
            if number is not None:
                parts.append(f"{number}{option}")
        self._stem = "-".join(parts)
        self.entries = self._entries()
        chosen = [p for p in self.entries if all(text.lower() in p.title.lower() for text in options.filters)]
        if not chosen:
            titles = "; ".join(p.title for p in self.entries[:4])
            raise UsageError(
                f"--filter: no cell has all of {', '.join(options.filters)} in its title, such as {titles}"
            )
        by_name = {p.cell.name: p for p in reversed(chosen)}
        names = list(dict.fromkeys(p.cell.name for p in chosen))
        number, count = options.part
        self.chosen = [by_name[name] for name in names[number - 1 :: count]]
        work: dict[str, tuple[Cell, str]] = {}
        for p in self.chosen:
            for need in p.cell.needs:
                work.setdefault(need.name, (need, f"network of {p.title}"))
            work[p.cell.name] = p.cell, p.title
        self.work = dict(work.values())
        """The chosen cells and those that they need, each before those that need it, with their titles."""

    def run(self) -> None:
        """Do what is not done, write table and page, and log the results.

        Raises:
            FacegmError: data are missing or others than before, or cells have failed; what is done stands in the
                results.
            StoppedError: a signal came; what is done stands in the table.
        """
        self._check_data()
        failure: FacegmError | None = None
        try:
            Grid(self.work, self.cells_folder, jobs=self._options.jobs, gpus=self._options.gpus).run()
        except StoppedError:
            self._write_table()
            raise
        except FacegmError as error:
            failure = error
        table = self._write_table()
        with self._alone():
            name, stem, results = self._options.name, self._options.output / self._stem, self.results()
            verdicts = verdicts_of(self.entries, results, self.cells_folder)
            experiment = replace(self.experiment, notes=[*self.experiment.notes, *verdicts])
            page = write_page(name, experiment, self.entries, results, self.cells_folder, stem)
        logger.info(f"\n{to_text(experiment, self.entries, results)}\n\n{table}\n{page}")
        if failure is not None:
            raise failure

    def results(self) -> Results:
        """What all cells that are finished have come to."""
        found = {p.cell.name: p.cell.result(self.cells_folder) for p in self.entries}
        return {name: result for name, result in found.items() if result is not None}

    def plan(self) -> str:
        """The cells that would be done, how they stand, and how long they would take here."""
        lines, left = [], 0.0
        times = seconds_of([cell.config for cell in self.work], self._data)
        for (cell, title), training in zip(self.work.items(), times, strict=True):
            state, seconds = "to do", training * cell.share_of_training(self._data.size(cell.config))
            if cell.result(self.cells_folder) is not None:
                state, seconds = "done", 0.0
            elif self.cells_folder.is_dir() and cell.is_taken(self.cells_folder):
                state = "in work"
            left += seconds if math.isfinite(seconds) else 0.0
            lines.append(f"{cell.name}  {state:<7}  {cell.length:>13}  {_duration(seconds):>16}  {title}")
        total = _duration(left / self._options.jobs)
        lines.append(f"{len(self.work)} cells, {total} with {self._options.jobs} side by side, by steps not compiled")
        return "\n".join(lines)

    def image_configs(self) -> list[ImageRunConfig]:
        """Of each set of images that the chosen cells are trained on, one configuration, however it augments them."""
        configs = [cell.config for cell in self.work]
        return list({(c.data.set, c.data.folder): c for c in configs if isinstance(c, ImageRunConfig)}.values())

    def _check_data(self) -> None:
        """Refuse to begin without data, or to go on with others than finished cells were made of."""
        for cell in self.work:
            result = cell.result(self.cells_folder)
            data = self._data.open(cell.config).description
            if result is not None and result.data != data:
                raise FacegmError(
                    f"{self.cells_folder / cell.name}: was made of {result.data}, and now there are {data}; give "
                    "another --output, or the data of then"
                )

    def _write_table(self) -> Path:
        path = self._options.output / f"{self._stem}.csv"
        with self._alone():
            replace_atomically(path, to_csv(self.experiment, self.entries, self.results()).encode())
        return path

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other command that shares the output folder writes results."""
        with (self._options.output / ".lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield

    # --------------------------------------------------------------------------------------------- cells

    def _entries(self) -> list[Entry]:
        experiment = self.experiment
        bases = {name: self._base(name) for name in dict.fromkeys(row.config for row in experiment.rows)}
        whole = []
        for row, column, seed in experiment.places():
            try:
                config = changed(bases[row.config], {**row.overrides, **column.overrides, "train.seed": seed})
                changes = {"train.seed": seed + 1} if experiment.budgets else column.judge
                other = None if changes is None else changed(config, changes)
            except ValueError as error:
                raise UsageError(f"--config: {row.title}, {column.title}: {error}") from error
            whole.append((row, column, seed, config, other))
        share = self._share([config for *_, config, other in whole for config in (config, other or config)])
        entries = []
        for row, column, seed, config, other in whole:
            short, lengths = self._shortened(config, share), {}
            lengths["epochs"] = Length(short.train.epochs, config.train.epochs)
            cell: Cell
            if column.attack is None:
                cell = TrainedCell(short, self._options.data / "lfw" if isinstance(config, FaceRunConfig) else None)
            else:
                cell = self._attack(row, column.attack, short, None if other is None else self._shortened(other, share))
                lengths["images"] = Length(cell.images, experiment.images)
                lengths["iterations"] = Length(cell.recipe.iterations, column.attack.iterations)
            entries.append(Entry(row, column, seed, cell, lengths))
        return entries

    def _attack(
        self, row: Row, recipe: AttackRecipe, config: RunConfig, other: RunConfig | None
    ) -> AttackCell | VerdictCell:
        """An attack or all those of a verdict, with as many images and iterations as are asked for.

        Args:
            row: of the table.
            recipe: the attack.
            config: of the network that is attacked.
            other: of the one that judges, or of a verdict's substitute.
        """
        assert isinstance(config, ImageRunConfig)
        assert isinstance(other, ImageRunConfig | None)
        recipe = replace(recipe, iterations=min(self._options.iterations or recipe.iterations, recipe.iterations))
        images = self._options.images or self.experiment.images
        if self.experiment.budgets:
            assert other is not None
            return VerdictCell(config, other, recipe, images, row.detector, self.experiment.budgets)
        return AttackCell(config, recipe, images, row.detector if recipe.defeats_detector else "", other)

    def _shortened(self, config: Config, share: float) -> Config:
        """A run with the share of its schedule that the budget buys."""
        budget = self._options.budget
        return config if budget is None else shortened(config, budget.epochs_of(config, share))

    def _share(self, configs: Sequence[ImageRunConfig | FaceRunConfig]) -> float:
        """How much of the whole grid's time the budget buys."""
        o = self._options
        if o.budget is None or o.budget.seconds is None:
            return 1.0

        def seconds() -> list[float]:
            distinct = {TrainedCell(config).name: config for config in configs}
            return seconds_of(list(distinct.values()), self._data)

        return divided(o.budget, o.output / f"{self._stem}.json", seconds, jobs=o.jobs, is_kept=not o.is_dry)

    def _base(self, name: str) -> ImageRunConfig | FaceRunConfig:
        """A configuration that rows and columns change: shipped, with its data in the folder of all, or the user's."""
        shipped = find_config(name or self.experiment.config)
        is_other = bool(name) and name != self.experiment.config
        path = shipped if is_other or self._options.config is None else self._options.config
        if task_of(path) != task_of(shipped):
            raise UsageError(f"--config: {path}: of another kind of run than {shipped.name}")
        root: type[ImageRunConfig | FaceRunConfig] = FaceRunConfig if task_of(path) is None else ImageRunConfig
        config = parse_config(path, root)
        if path != shipped:
            return config
        key = "data.store" if isinstance(config, FaceRunConfig) else "data.folder"
        return changed(config, {key: self._options.data / path.stem})


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "unknown"
