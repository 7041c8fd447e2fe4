"""The distances between the means that a run with the GM loss has reached, drawn like Fig. 2 of Wan et al."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from facegm.data.charts import COLORS, drawn, write_svg
from facegm.losses.geometry import optimal_distance

CHART_FILE = "geometry.svg"
MOST_CLASSES = 1_000
"""Classes that are drawn at most, evenly spaced among all: the grid has no more pixels."""


@dataclass(frozen=True)
class GeometryNumbers:
    """The distances (not squared) between every two of the means that are drawn."""

    average: float
    deviation: float
    """Standard deviation."""
    optimum: float | None
    """What Eq. 16 expects; None without a lambda, where there is none."""


def geometry_numbers(means: Float[Tensor, "classes dim"], likelihood_weight: float) -> GeometryNumbers:
    """What `draw_geometry` draws, in numbers; its arguments are the same."""
    return _numbers(_distances(means), len(means), likelihood_weight)


def draw_geometry(path: Path, means: Float[Tensor, "classes dim"], likelihood_weight: float) -> None:
    """Write the grid of the distances between means, and their histogram beside the optimum of Eq. 16, as SVG.

    Args:
        path: the file to write.
        means: class means, two at least.
        likelihood_weight: lambda of the mixture regulariser; 0 where there is no optimum to draw.
    """
    grid = _distances(means)
    numbers = _numbers(grid, len(means), likelihood_weight)
    with drawn(9, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        figure.colorbar(left.imshow(grid), ax=left, label="distance")
        left.set(xlabel="class", ylabel="class", title=f"{len(grid)} of {len(means)} means")
        right.hist(_of_pairs(grid), bins=60, color=COLORS[0])
        right.axvline(numbers.average, color="black", linestyle="--", label=f"mean {numbers.average:.3f}")
        if numbers.optimum is not None:
            right.axvline(numbers.optimum, color=COLORS[2], label=f"optimum of Eq. 16: {numbers.optimum:.3f}")
        right.set(xlabel="distance", ylabel="pairs of classes")
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        write_svg(path, figure)


def _distances(means: Float[Tensor, "classes dim"]) -> Float[np.ndarray, "some some"]:
    """Of each two of the means that are drawn."""
    some = means[torch.linspace(0, len(means) - 1, min(len(means), MOST_CLASSES)).long()].double().cpu()
    distances: Float[np.ndarray, "some some"] = torch.cdist(some, some).numpy()
    return distances


def _of_pairs(grid: Float[np.ndarray, "some some"]) -> Float[np.ndarray, " pairs"]:
    """Each pair once."""
    return grid[np.triu_indices(len(grid), k=1)]


def _numbers(grid: Float[np.ndarray, "some some"], classes: int, likelihood_weight: float) -> GeometryNumbers:
    pairs = _of_pairs(grid)
    return GeometryNumbers(
        average=float(pairs.mean()),
        deviation=float(pairs.std()),
        optimum=optimal_distance(classes, likelihood_weight) if likelihood_weight > 0 else None,
    )
