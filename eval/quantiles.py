"""A bound on a number, below which no more than a share of measured ones lies, and how sure it is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binom

from facegm.eval.metrics import threshold_at
from facegm.eval.rates import CONFIDENCE, allowed_errors


@dataclass(frozen=True, kw_only=True)
class LowQuantile:
    """The largest bound that a share keeps below."""

    bound: float
    interval: tuple[float | None, float | None]
    """Of the bound that has the share; None on a side that the numbers do not bound."""
    below: int
    """Numbers below the bound."""


def low_quantile(measured: Float[np.ndarray, " numbers"], share: float) -> LowQuantile | None:
    """The largest bound below which lies no more than a share.

    Its interval is that of a quantile, by order statistics: exact where the numbers are continuous.

    Args:
        measured: the numbers, in any order.
        share: above 0 and below 1.

    Returns:
        None where there are too few for even one of them to lie below: not measurable.
    """
    count = len(measured)
    if allowed_errors(share, count) == 0:
        return None
    ordered, bound = np.sort(measured), threshold_at(measured, share)
    low, high = (int(binom.ppf(tail, count, share)) for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return LowQuantile(
        bound=bound,
        interval=(float(ordered[low - 1]) if low > 0 else None, float(ordered[high]) if high < count else None),
        below=int(np.count_nonzero(measured < bound)),
    )
