"""Fig. 1 of Wan et al.: two-dimensional features of the training images by loss, and their density under attack."""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facegm.adversarial.detectors.kernels import log_density
from facegm.data.files import atomic_file
from facegm.reproduce.embeddings import DensityPanel, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#f472c4", "#7f7f7f", "#b5bd00", "#17becf",
)  # fmt: skip
"""Of the classes."""
DARKEST = 15.0
"""Nats below the highest density where the heat map is black, at most."""
_MANY = 20_000  # features, of which smaller dots are drawn
_GRID = 160  # pixels of the heat map on each side
_DPI = 150
_STYLE: dict[Any, Any] = {"font.size": 9.0, "axes.titlesize": 10.0, "axes.linewidth": 0.6}


def draw_embeddings(path: Path, panels: Sequence[Panel], density: DensityPanel) -> None:
    """Write the panels, three in a row, and the heat map after them, as PNG.

    Args:
        path: the file to write.
        panels: of classifiers of the same classes.
        density: what the last panel shows.

    Raises:
        ValueError: a panel's features are not of two dimensions, or there are more classes than colours.
    """
    for panel in panels:
        if panel.features.shape[1] != 2 or len(panel.classes) > len(COLORS):
            raise ValueError(
                f"{panel.title}: features of {panel.features.shape[1]} dimensions and {len(panel.classes)} classes; "
                f"2 and at most {len(COLORS)} can be drawn"
            )
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-(len(panels) + 1) // 3)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 3.95 * rows + 0.3), layout="constrained")
        every = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
        for axes in every:
            axes.set_axis_off()
        for axes, panel in zip(every, panels, strict=False):
            _draw_panel(axes, panel)
        _draw_density(every[len(panels)], density)
        titles = [*(panel.title for panel in panels), density.title]
        for letter, axes, title in zip(ascii_lowercase, every, titles, strict=False):
            axes.set_title(f"({letter}) {title}")
        marks = [
            Line2D([], [], linestyle="", marker="o", markersize=6, color=color, label=name)
            for color, name in zip(COLORS, panels[0].classes, strict=False)
        ]
        marks.append(Line2D([], [], linestyle="", marker="X", color="black", label="mean or center"))
        marks.append(Line2D([], [], linewidth=0.8, color="black", label="direction of a class vector"))
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, columnspacing=1.2)
        with atomic_file(path) as file:
            figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    from matplotlib.patheffects import withStroke

    features, vectors = panel.features.numpy(), panel.class_vectors.numpy()
    colors = [COLORS[label] for label in panel.labels.tolist()]
    size = 1.2 if len(features) > _MANY else 4
    axes.scatter(features[:, 0], features[:, 1], s=size, c=colors, alpha=0.6, linewidths=0)
    if panel.are_points:
        axes.scatter(vectors[:, 0], vectors[:, 1], s=42, marker="X", c="black", edgecolors="white", linewidths=0.9)
    else:
        reach = np.quantile(np.linalg.norm(features, axis=1), 0.999)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * reach
        for x, y in vectors:
            axes.plot([0, x], [0, y], color="black", linewidth=0.7)
    for place, name in zip(vectors, panel.classes, strict=True):
        axes.annotate(
            name, place, xytext=(5, 4) if panel.are_points else tuple(7 * place / np.linalg.norm(place)),
            textcoords="offset points", ha="left" if panel.are_points else "center",
            va="bottom" if panel.are_points else "center", fontweight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
    _square(axes)


def _draw_density(axes: "Axes", density: DensityPanel) -> None:
    every = torch.cat([density.training, density.clean, density.adversarial]).double()
    low, high = every.min(dim=0).values, every.max(dim=0).values
    middle, half = (low + high) / 2, 0.55 * (high - low).max().item()  # a square
    x, y = (torch.linspace(center - half, center + half, _GRID, dtype=torch.float64) for center in middle.tolist())
    values = log_density(torch.cartesian_prod(x, y), density.training, density.bandwidth).view(_GRID, _GRID).T.numpy()
    step = (x[1] - x[0]).item() / 2  # the values are those of the pixels' middles
    extent = (x[0].item() - step, x[-1].item() + step, y[0].item() - step, y[-1].item() + step)
    highest = float(values.max())
    image = axes.imshow(
        values, origin="lower", extent=extent, cmap="inferno", vmin=max(highest - DARKEST, float(values.min())),
        vmax=highest, interpolation="bilinear",
    )  # fmt: skip
    axes.figure.colorbar(image, ax=axes, label=f"log density (nats), bandwidth {density.bandwidth:.2g}", shrink=0.85)
    attacked, (clean, adversarial) = density.adversarial.numpy(), density.medians()
    axes.scatter(attacked[:, 0], attacked[:, 1], s=7, c="#5ee7ff", edgecolors="black", linewidths=0.4)
    text = f"median log density: test images {clean:.2f}, by FGSM (dots) {adversarial:.2f}"
    axes.set_xlabel(text.replace("-", "\N{MINUS SIGN}"))
    _square(axes)


def _square(axes: "Axes") -> None:
    """Ticks, a frame, and one scale for both axes in a square."""
    axes.set_axis_on()
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_box_aspect(1)
    axes.tick_params(length=2, width=0.6, labelsize=8, color="#808080", labelcolor="#606060")
