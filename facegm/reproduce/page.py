"""A reproduced table or figure as one HTML page: each of our figures beside the paper's."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facegm.data.pages import render_page

_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class PageCell:
    """One figure of a table."""

    ours: str
    """As it came out here, such as `0.41 ± 0.02 (3 seeds)`; `-` where it was not run."""
    paper: str
    """As the paper prints it; empty where it has none."""
    peer: str = ""
    """What others found by a like recipe, with its source; empty where nobody is known to."""


@dataclass(frozen=True)
class PageRow:
    """One row of a table."""

    title: str
    note: str
    """What is to be known before it is compared, such as by how much its training was shortened; may be empty."""
    cells: Sequence[PageCell]
    """One a column."""


@dataclass(frozen=True)
class Chart:
    """A picture in the page."""

    title: str
    caption: str
    file: Path
    """PNG or SVG."""


def render_reproduction(
    *,
    title: str,
    head: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[PageRow],
    notes: Sequence[str],
    charts: Sequence[Chart],
) -> str:
    """Render the page; it holds its pictures and loads nothing.

    Args:
        title: of the table or figure.
        head: paragraphs above all else: what was run, and with which share of the paper's budget.
        columns: names of the columns, without that of the rows' titles.
        rows: without any there is no table.
        notes: paragraphs below the table.
        charts: pictures, in order.
    """
    strange = next((row for row in rows if len(row.cells) != len(columns)), None)
    if strange is not None:
        raise ValueError(f"{strange.title}: {len(strange.cells)} cells for {len(columns)} columns")
    return render_page(
        "facegm.reproduce/page.html.jinja",
        title=title,
        head=head,
        columns=columns,
        rows=rows,
        notes=notes,
        charts=[{"title": chart.title, "caption": chart.caption, "uri": _embedded(chart.file)} for chart in charts],
    )


def _embedded(file: Path) -> str:
    """A picture as a `data:` address that holds it."""
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{_MEDIA_TYPES[file.suffix]};base64,{content}"
