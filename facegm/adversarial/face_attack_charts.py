"""Charts of attacks on faces: success over what a pixel may change, and over the distortion that it takes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from facegm.data.charts import COLORS, INK, drawn, svg

DASHES = ("-", "--", ":")


def success_chart(
    over_budget: Mapping[str, Mapping[int, float]], distortions: Mapping[str, Mapping[str, Sequence[float]]], pairs: int
) -> str:
    """Draw the share of successes within L-infinity balls, and within L2 distortions.

    Args:
        over_budget: by goal, and by the most that a pixel may change on a scale of 0 to 255, the share of successes.
        distortions: by goal and attack, root mean square changes of those that succeeded, on the same scale.
        pairs: how many were attacked for each goal.

    Returns:
        An `<svg>` element.
    """
    with drawn(9, 3.4) as figure:
        balls, distances = figure.subplots(1, 2, sharey=True)
        for color, (goal, shares) in zip(COLORS, over_budget.items(), strict=False):
            balls.plot(list(shares), [100 * share for share in shares.values()], "o-", color=color, label=goal)
            for dash, (attack, found) in zip(DASHES, distortions[goal].items(), strict=False):
                sizes, shares_within = cumulative(np.asarray(found), pairs)
                label = f"{goal}, {attack}"
                distances.step(sizes, 100 * shares_within, where="post", color=color, linestyle=dash, label=label)
        balls.set(xlabel="most that a pixel changes, of 255 (PGD)", ylabel="success, %", xscale="log", ylim=(0, 103))
        budgets = sorted({budget for shares in over_budget.values() for budget in shares})
        balls.set_xticks(budgets, [str(budget) for budget in budgets])
        balls.minorticks_off()
        distances.set(xlabel="distortion, root mean square of 255", xlim=(0, None))
        for axes in (balls, distances):
            axes.grid(color=INK, alpha=0.12)
            axes.legend(loc="lower right")
        return svg(figure, "Success of impersonation and dodging over the bound of PGD, and over the L2 distortion")


def cumulative(
    distortions: Float[np.ndarray, " successes"], pairs: int
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Distortions, from 0 on, and the share of all pairs for which no more was needed."""
    sizes = np.concatenate([[0.0], np.sort(distortions)])
    return sizes, np.arange(len(sizes)) / pairs
