"""Pages and charts of reproduced tables: every number is in them, nothing is loaded, and names cannot break them."""

import base64
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_pages import TablePage

from facegm.reproduce.charts import draw_comparison, draw_curve
from facegm.reproduce.page import Chart, PageCell, PageRow, render_reproduction

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><text>é</text></svg>')
    return render_reproduction(
        title="Table 1 & <more>",
        head=["3 of 50 epochs", "on <one> machine"],
        columns=["2-D", "<100>-D"],
        rows=[
            PageRow(
                "softmax", "3 of 50 epochs", [PageCell("1.90 ± 0.05", "1.82 ± 0.01", "0.98"), PageCell("-", "0.68")]
            ),
            PageRow("GM <script>alert(1)</script>", "", [PageCell("1.25", "1.17"), PageCell("0.41", "")]),
        ],
        notes=["three & more seeds"],
        charts=[Chart("Dots", "what <dots> say", tmp_path / "a.png"), Chart('"Curve"', "", tmp_path / "b.svg")],
    )


def test_the_page_says_it_all_and_names_cannot_break_it(source: str) -> None:
    page = TablePage(source)
    assert page.rows == [
        ["", "2-D|", "<100>-D|"],
        ["softmax|3 of 50 epochs|", "1.90 ± 0.05|paper 1.82 ± 0.01|like recipe 0.98|", "-|paper 0.68|"],
        ["GM <script>alert(1)</script>|", "1.25|paper 1.17|", "0.41|"],
    ]
    assert "script" not in page.tags
    for text in ("Table 1 & <more>", "on <one> machine", "three & more seeds", "what <dots> say", '"Curve"'):
        assert text in page.text
    assert page.text.index("on <one> machine") < page.text.index("softmax") < page.text.index("three & more seeds")


def test_the_page_loads_nothing(source: str) -> None:
    page = TablePage(source)
    assert [target.split(",")[0] for target in page.loads] == ["data:image/png;base64", "data:image/svg+xml;base64"]
    assert base64.b64decode(page.loads[0].split(",")[1]) == PNG
    assert "é" in base64.b64decode(page.loads[1].split(",")[1]).decode()
    assert "@import" not in source
    assert not re.search(r"url\(|https?:", source)


def test_a_figure_has_no_table_and_a_row_that_does_not_fit_is_refused() -> None:
    page = TablePage(render_reproduction(title="Fig. 1", head=[], columns=[], rows=[], notes=[], charts=[]))
    assert "table" not in page.tags
    assert "img" not in page.tags
    with pytest.raises(ValueError, match="softmax: 1 cells for 2 columns"):
        render_reproduction(
            title="t", head=[], columns=["a", "b"], rows=[PageRow("softmax", "", [PageCell("1", "2")])], notes=[],
            charts=[],
        )  # fmt: skip


def test_a_comparison_shows_every_seed_beside_the_paper(tmp_path: Path, figures: list[Any]) -> None:
    ours = {("softmax", "2-D"): [1.8, 2.1, 2.4], ("GM", "2-D"): [1.2], ("GM", "100-D"): []}
    paper = {("softmax", "2-D"): (1.82, 0.01), ("GM", "2-D"): (1.17, 0.02), ("GM", "100-D"): (0.39, 0.03)}
    for name in ("a.svg", "b.svg"):
        columns, rows = ["2-D", "100-D"], ["softmax", "GM"]
        draw_comparison(tmp_path / name, "Table <1>", columns, rows, ours, paper, xlabel="test error (%)")
    text = (tmp_path / "a.svg").read_text()
    assert (tmp_path / "b.svg").read_text() == text
    assert "Table &lt;1&gt;" in text
    low, high = figures[0].axes
    assert [label.get_text() for label in low.get_yticklabels()] == ["softmax", "GM"]
    assert low.get_ylim()[0] > low.get_ylim()[1]  # the first row is the upper one
    assert (low.get_title(), high.get_title()) == ("2-D", "100-D")
    assert low.get_xlabel() == "test error (%)"
    dots = [c.get_offsets().tolist() for c in low.collections if hasattr(c, "get_offsets") and len(c.get_offsets())]
    seeds = [[place for place in cell if place[1] != 0] for cell in dots]
    assert [[place[0] for place in cell] for cell in seeds if cell] == [[1.8, 2.1, 2.4], [1.2]]
    means = [
        line.get_xdata().tolist() for line in low.lines if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    assert np.allclose(means, [[2.1, 2.1], [1.2, 1.2]])
    markers = [(*map(float, bar[0].get_xydata()[0]),) for bar in low.containers]
    assert [x for x, _ in markers] == [1.82, 1.17]
    assert [round(y) for _, y in markers] == [0, 1]
    spans = [bar[2][0].get_segments()[0][:, 0].tolist() for bar in low.containers]
    assert np.allclose(spans, [[1.81, 1.83], [1.15, 1.19]])
    assert [note.get_text() for note in low.texts] == []
    assert [note.get_text() for note in high.texts] == ["not run", "not run"]
    assert len(high.containers) == 1  # the paper has no figure of softmax there


def test_a_curve_has_its_means_written_down_and_zero_apart(tmp_path: Path, figures: list[Any]) -> None:
    x = [0.0, 0.001, 0.01, 0.1]
    y = {"GM": [[98.7, 98.8], [98.9], [], [99.1, 99.3]], "other": [[], [98.1], [98.2], [98.3]]}
    draw_curve(tmp_path / "a.svg", x, y, xlabel="alpha", ylabel="accuracy (%)", log_x=True)
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.001", "0.01", "0.1"]
    places = axes.get_xticks().tolist()
    assert 0 < places[0] < places[1] / 2
    assert [note.get_text() for note in axes.texts] == ["98.75", "98.90", "99.20", "98.10", "98.20", "98.30"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert np.allclose(lines["GM"], [[0.001, 98.9], [0.1, 99.2]])
    assert np.allclose(lines["other"], [[0.001, 98.1], [0.01, 98.2], [0.1, 98.3]])
    dots = np.concatenate([c.get_offsets() for c in axes.collections])
    assert sorted(dots[:, 1].tolist()) == [98.1, 98.2, 98.3, 98.7, 98.8, 98.9, 99.1, 99.3]
    assert math.isclose(dots[0, 0], places[0])
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"GM", "other"}
    draw_curve(tmp_path / "b.svg", x, {"GM": y["GM"]}, xlabel="alpha", ylabel="accuracy (%)", log_x=False)
    plain = figures[1].axes[0]
    assert plain.get_xscale() == "linear"
    assert plain.get_xticks().tolist() == x
    assert plain.get_legend() is None
    assert np.allclose(plain.lines[-1].get_xydata()[0], [0, 98.75])
