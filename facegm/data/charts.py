"""Charts of the pages, as SVG that takes its text colour and font from the page."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
    """A figure in the pages' style, which lasts as long as the context; to be made an element by `svg` within it.

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
