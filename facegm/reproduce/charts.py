"""Charts of reproduced tables and curves: every seed as a dot, and the paper's figure beside ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from facegm.data.charts import COLORS, drawn, write_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PAPER = COLORS[:2]


def draw_comparison(
    path: Path,
    title: str,
    columns: Sequence[str],
    row_titles: Sequence[str],
    ours: Mapping[tuple[str, str], Sequence[float]],
    paper: Mapping[tuple[str, str], tuple[float, float] | None],
    *,
    xlabel: str,
) -> None:
    """Write a dot plot of a table as SVG, a part for each of its columns.

    Args:
        path: the file to write.
        title: of the chart.
        columns: their names.
        row_titles: those of the rows.
        ours: the values of all seeds of a cell, by row and column; cells that were not run are missing or empty.
        paper: mean and standard deviation of a cell; None or missing where the paper has none.
        xlabel: what the values are.
    """
    with drawn(2.2 + 2.9 * len(columns), 1.7 + 0.5 * len(row_titles)) as figure:
        every = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(every, columns, strict=True):
            for place, row in enumerate(row_titles):
                _draw_cell(axes, place, ours.get((row, column), ()), paper.get((row, column)))
            axes.set(title=column, xlabel=xlabel)
            axes.margins(x=0.12)
            axes.grid(axis="x", color="black", alpha=0.1)
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(range(len(row_titles)), row_titles)
        every[0].set_ylim(len(row_titles) - 0.4, -0.6)  # the first row above
        _add_legend(figure)
        figure.suptitle(title)
        write_svg(path, figure)


def _draw_cell(axes: "Axes", place: int, ours: Sequence[float], paper: tuple[float, float] | None) -> None:
    """Ours above the row's line, the paper's below it."""
    if paper is not None:
        axes.errorbar(paper[0], place + 0.16, xerr=paper[1], fmt="D", color=PAPER, markersize=5, capsize=3)
    if ours:
        axes.scatter(ours, [place - 0.16] * len(ours), s=26, color=OURS, alpha=0.6, linewidths=0, zorder=3)
        axes.plot([fmean(ours)] * 2, [place - 0.32, place], color=OURS, linewidth=2)
    else:
        axes.annotate(
            "not run",
            (0.02, place - 0.16),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color="#808080",
        )


def _add_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], linestyle="", marker="o", alpha=0.6, color=OURS, label="a seed of ours"),
            Line2D([], [], linestyle="", marker="|", markersize=11, markeredgewidth=2, color=OURS, label="their mean"),
            Line2D([], [], marker="D", markersize=5, color=PAPER, label="the paper, ± its deviation"),
        ],
        loc="outside lower center",
        ncols=3,
    )


def draw_curve(
    path: Path,
    x: Sequence[float],
    y: Mapping[str, Sequence[Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool,
) -> None:
    """Write curves over one hyperparameter as SVG: seeds as dots, a line through their means, which are written down.

    Args:
        path: the file to write.
        x: the hyperparameter; on a logarithmic axis a 0 stands to the left of the others, and no line leads to it.
        y: by series, and for each x, the values of all seeds; none where nothing was run.
        xlabel: what x is.
        ylabel: what the values are.
        log_x: whether x is on a logarithmic axis.
    """
    from matplotlib.ticker import NullLocator

    leftmost = min((value for value in x if value > 0), default=1.0) / 4
    places = [leftmost if log_x and value == 0 else value for value in x]
    with drawn(6.4, 3.8) as figure:
        axes = figure.subplots()
        for number, (name, values) in enumerate(y.items()):
            color = f"C{number}"
            run = [(place, seeds) for place, seeds in zip(places, values, strict=True) if seeds]
            for place, seeds in run:
                axes.scatter([place] * len(seeds), seeds, s=22, color=color, alpha=0.5, linewidths=0)
                axes.plot(place, fmean(seeds), color=color, marker="_", markersize=12, markeredgewidth=2)
                axes.annotate(
                    f"{fmean(seeds):.2f}", (place, max(seeds)), xytext=(0, 6), textcoords="offset points",
                    ha="center", fontsize=8.5, color=color,
                )  # fmt: skip
            joined = [(place, fmean(seeds)) for place, seeds in run if not (log_x and place == leftmost)]
            axes.plot([place for place, _ in joined], [mean for _, mean in joined], color=color, label=name)
        if log_x:
            axes.set_xscale("log")
        axes.set_xticks(places, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.08, y=0.2)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(color="black", alpha=0.1)
        if len(y) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(y))
        write_svg(path, figure)
