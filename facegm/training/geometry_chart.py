"""The distances between the means that a run with the GM loss has reached, drawn like Fig. 2 of Wan et al."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from facegm.data.files import atomic_file
from facegm.losses.geometry import optimal_distance

CHART_FILE = "geometry.svg"
MOST_CLASSES = 1_000
"""Classes that are drawn at most, evenly spaced among all: the grid has no more pixels."""
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "facegm"}  # text stays text; same means, same bytes


def draw_geometry(path: Path, means: Float[Tensor, "classes dim"], likelihood_weight: float) -> None:
    """Write the grid of the distances between means, and their histogram beside the optimum of Eq. 16, as SVG.

    Args:
        path: the file to write.
        means: class means, two at least.
        likelihood_weight: lambda of the mixture regulariser; 0 where there is no optimum to draw.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    some = means[torch.linspace(0, len(means) - 1, min(len(means), MOST_CLASSES)).long()].double().cpu()
    grid = torch.cdist(some, some).numpy()
    distances = grid[np.triu_indices(len(grid), k=1)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        figure.colorbar(left.imshow(grid), ax=left, label="distance")
        left.set(xlabel="class", ylabel="class", title=f"{len(some)} of {len(means)} means")
        right.hist(distances, bins=60, color="#2f8fd0")
        right.axvline(distances.mean(), color="black", linestyle="--", label=f"mean {distances.mean():.3f}")
        if likelihood_weight > 0:
            optimum = optimal_distance(len(means), likelihood_weight)
            right.axvline(optimum, color="#3a9e4f", label=f"optimum of Eq. 16: {optimum:.3f}")
        right.set(xlabel="distance", ylabel="pairs of classes")
        right.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        with atomic_file(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
