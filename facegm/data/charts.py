"""Charts as SVG: elements of a page, of which they take text colour and font, or files of their own."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegm.data.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#2f8fd0", "#e0803a", "#3a9e4f", "#b05fc0", "#c9a227", "#d0556a")
"""Readable on a light and on a dark page; the first two also by the colour-blind."""
INK = "#010203"
"""Drawn by no one else: becomes the page's own text colour."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "facegm",  # the same chart gives the same bytes
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def drawn(width: float, height: float) -> Iterator["Figure"]:
    """A figure in the style of all charts, which lasts as long as the context; for `svg` or `write_svg` within it.

    Args:
        width: in inches of 72 points, of which its text has 10 in height.
        height: likewise.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: "Figure", description: str) -> str:
    """A figure as an `<svg>` element.

    Args:
        figure: what `drawn` has given.
        description: what it shows, for those who cannot see it; of letters, commas and the like.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def write_svg(path: Path, figure: "Figure") -> None:
    """Write a figure as a file, on white; the same chart gives the same bytes.

    Args:
        path: the file, which appears whole or not at all.
        figure: what `drawn` has given.
    """
    with atomic_file(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
