"""The chart of the distances between means: what it says, for few classes and for many."""

import re
from pathlib import Path

import torch

from facegm.training.geometry_chart import draw_geometry


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
