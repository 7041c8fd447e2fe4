"""Charts that tests do not look at, drawn quickly or not at all: matplotlib takes longer for them than a small run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import Tensor

from facegm.training import run as training_run
from facegm.training.geometry_chart import draw_geometry


def leave_out_geometry() -> None:
    """From now on, runs of this process end with a file in the place of the chart of their means."""
    training_run.draw_geometry = _write_nothing  # type: ignore[attr-defined]


@contextmanager
def quick_charts() -> Iterator[None]:
    """So it is within, and the other charts are drawn without looking for room for their labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_geometry", _write_nothing)
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda *_: None)
        yield


@contextmanager
def geometry_drawn() -> Iterator[None]:
    """Within, runs of this process end with that chart after all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_geometry", draw_geometry)
        yield


def _write_nothing(path: Path, means: Tensor, likelihood_weight: float) -> None:
    path.write_text("not drawn")
