"""Charts of quality scores: what is left of the errors while pairs are discarded."""

from collections.abc import Sequence

import numpy as np

from facegm.data.charts import COLORS, INK, drawn, svg
from facegm.eval.quality_trial import DiscardTrial

LARGEST_DISCARD = 0.5
"""Share of the pairs up to which curves are drawn."""
_WIDTHS = (3.2, *[1.4] * (len(COLORS) - 1))
"""Of the lines: a curve that covers the first one leaves its edges to be seen."""


def discard_chart(trials: Sequence[DiscardTrial]) -> str:
    """Draw error-versus-discard curves, a panel a trial, of all scores and of the ideal one.

    Args:
        trials: one or two.

    Returns:
        An `<svg>` element.
    """
    shares = np.linspace(0, LARGEST_DISCARD, 501)
    with drawn(9, 4.2) as figure:
        panels = figure.subplots(1, len(trials), squeeze=False)[0]
        for axes, trial in zip(panels, trials, strict=True):
            for color, width, (name, curve) in zip(COLORS, _WIDTHS, trial.curves.items(), strict=False):
                axes.step(shares, 100 * curve.at(shares), where="post", color=color, linewidth=width, label=name)
            axes.step(shares, 100 * trial.ideal.at(shares), "--", where="post", color=INK, label="ideal")
            axes.axhline(100 * trial.false_non_match_rate, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
            axes.set(title=trial.condition, xlabel="pairs discarded, share", xlim=(0, LARGEST_DISCARD), ylim=(0, None))
            axes.grid(color=INK, alpha=0.12)
        panels[0].set(ylabel=f"false non-match rate at {trials[0].point.name}, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg(figure, "False non-match rate over the share of pairs discarded, by each quality score")
