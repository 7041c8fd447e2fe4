"""A table or figure that is made again: rows, columns and seeds, each a run, and the figures that were published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from facegm.adversarial.recipe import AttackRecipe

Metric = Literal[
    "error",
    "top5_error",
    "accuracy",
    "mean_distance",
    "distance_deviation",
    "optimal_distance",
    "lfw_accuracy",
    "auc",
    "distortion",
    "success",
    "undetected_at_5",
    "doubled_at_5",
    "transferred_at_5",
    "gradient_free_at_5",
    "undefended",
    "broken_at_5",
    "zero_gradients",
]
Overrides = Mapping[str, Any]
"""Values of a configuration by dotted key."""
Config = TypeVar("Config")


@dataclass(frozen=True)
class Published:
    """A figure of somebody's paper or repository."""

    mean: float
    deviation: float | None = None
    source: str = ""
    """Where it is from, if not from the paper's own runs."""

    def __str__(self) -> str:
        text = f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"
        return f"{text} ({self.source})" if self.source else text


Figure = float | tuple[float, float] | Published
"""A mean; with its deviation; or with its source."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    title: str
    overrides: Overrides = field(default_factory=dict)
    config: str = ""
    """Shipped configuration, where it is another than the experiment's."""
    detector: str = ""
    """Of an attack: the detector whose figures these are, and that the attack defeats if it defeats any."""


@dataclass(frozen=True)
class Beside:
    """Further numbers of a cell that are shown beside those of a column."""

    title: str
    numbers: Mapping[str, str]
    """Their names, in which {metric} stands for the column's own, by the names of their columns in the CSV file."""


BEST = Beside("best validated epoch", {"best_epoch_value": "best_{metric}"})


@dataclass(frozen=True)
class Column:
    """A column of a table, and what is measured for it."""

    title: str
    overrides: Overrides = field(default_factory=dict)
    metric: Metric = "error"
    beside: Sequence[Beside] = (BEST,)
    attack: AttackRecipe | None = None
    """What is done to test images before the measurement; None where the network alone is measured."""
    judge: Overrides | None = None
    """What tells the network that looks at attacked images from the one that they were made with; None where it is the
    same."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure: a run for each row, column and seed."""

    title: str
    config: str
    """Shipped configuration that rows and columns change."""
    rows: Sequence[Row]
    columns: Sequence[Column]
    seeds: int = 3
    images: int = 0
    """Test images that are attacked, where they are."""
    budgets: Sequence[float] = ()
    """Where a verdict is reached: the most that a pixel may change, in turn. Else empty."""
    ours: str = "last epoch"
    """What our figures are of."""
    paper: Mapping[tuple[str, str], Published] = field(default_factory=dict)
    """By titles of row and column."""
    peers: Mapping[tuple[str, str], Published] = field(default_factory=dict)
    """Best figures known of a recipe like ours, by others."""
    notes: Sequence[str] = ()

    def places(self) -> Iterator[tuple[Row, Column, int]]:
        """Rows, columns and seeds, those of seed 0 first, so that a table fills evenly."""
        for seed in range(self.seeds):
            for row in self.rows:
                for column in self.columns:
                    yield row, column, seed


def figures_of(
    rows: Sequence[Row], columns: Sequence[Column], figures: Sequence[Sequence[Figure | None]]
) -> dict[tuple[str, str], Published]:
    """Figures of a whole table, row by row."""
    return {
        (row.title, column.title): _published(figure)
        for row, line in zip(rows, figures, strict=True)
        for column, figure in zip(columns, line, strict=True)
        if figure is not None
    }


def _published(figure: Figure) -> Published:
    if isinstance(figure, Published):
        return figure
    return Published(*figure) if isinstance(figure, tuple) else Published(figure)


def changed(config: Config, overrides: Overrides) -> Config:
    """A configuration with some values changed.

    Args:
        config: a dataclass of sections, which are dataclasses too.
        overrides: values by dotted key.

    Raises:
        KeyError: there is no such key.
    """
    for key, value in overrides.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if not is_dataclass(section) or name not in {one.name for one in fields(section)}:
        raise KeyError(name)
    return replace(section, **{name: _with(getattr(section, name), rest, value) if rest else value})  # type: ignore[type-var]
