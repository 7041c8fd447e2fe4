"""The chart of the distances between means: what it says, for few classes and for many."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from facegm.training.geometry_chart import draw_geometry, geometry_numbers


def test_the_chart_names_the_mean_distance_and_the_optimum(tmp_path: Path) -> None:
    means = torch.eye(10) * 2.0  # every two are 2 sqrt(2) apart
    draw_geometry(tmp_path / "a.svg", means, 0.1)
    text = (tmp_path / "a.svg").read_text()
    assert "mean 2.828" in text
    assert "optimum of Eq. 16: 2.725" in text
    assert "10 of 10 means" in text
    draw_geometry(tmp_path / "b.svg", means, 0.1)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_many_classes_are_thinned_and_without_lambda_there_is_no_optimum(tmp_path: Path) -> None:
    means = torch.randn(3_000, 8)
    draw_geometry(tmp_path / "a.svg", means, 0.0)
    text = (tmp_path / "a.svg").read_text()
    assert "1000 of 3000 means" in text
    assert "optimum" not in text
    expected = torch.pdist(means[torch.linspace(0, 2_999, 1_000).long()]).mean().item()
    found = re.search(r"mean (\d\.\d+)", text)
    assert found is not None
    assert abs(float(found[1]) - expected) < 1e-3


def test_numbers_are_those_of_all_pairs(tmp_path: Path) -> None:
    means = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 2
    pairs = [math.dist(means[i].tolist(), means[k].tolist()) for i in range(7) for k in range(i)]
    found = geometry_numbers(means, 0.1)
    average = sum(pairs) / 21
    assert found.average == pytest.approx(average)
    assert found.deviation == pytest.approx(math.sqrt(sum((pair - average) ** 2 for pair in pairs) / 21))
    # 1 - p of the true class at the optimum is 2 lambda (K - 1) / K.
    assert found.optimum is not None
    others = 6 * math.exp(-(found.optimum**2) / 2)
    assert others / (1 + others) == pytest.approx(2 * 0.1 * 6 / 7)
    without = geometry_numbers(means, 0.0)
    assert without.optimum is None
    assert without.average == found.average


def test_the_average_is_dashed_and_black_and_the_optimum_solid_and_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    means = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    draw_geometry(tmp_path / "a.svg", means, 0.1)
    grid, histogram = figures[0].axes[:2]
    numbers = geometry_numbers(means, 0.1)
    average, optimum = histogram.lines
    assert (average.get_linestyle(), average.get_color()) == ("--", "black")
    assert optimum.get_linestyle() == "-"
    red, green, blue = to_rgb(optimum.get_color())
    assert green > max(red, blue)
    for line, value in ((average, numbers.average), (optimum, numbers.optimum)):
        assert value is not None
        assert np.array_equal(line.get_xdata(), [value, value])
    shown = grid.images[0].get_array()
    assert shown is not None
    assert shown[2, 5] == pytest.approx(math.dist(means[2].tolist(), means[5].tolist()))
    assert sum(bar.get_height() for bar in histogram.patches) == 45  # type: ignore[attr-defined]
