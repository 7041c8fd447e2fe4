"""From the faces of a calibration set to the likelihood below which a face is called abnormal."""

import numpy as np
from jaxtyping import Float

from facegm.embedding.likelihood import LikelihoodThreshold
from facegm.eval.quantiles import low_quantile

FALSE_ALARM_RATES = (0.1, 0.05, 0.01, 0.001)
"""Whose thresholds are stored, as far as there are faces enough."""


def likelihood_thresholds(scores: Float[np.ndarray, " faces"], *, measured_on: str) -> tuple[LikelihoodThreshold, ...]:
    """The thresholds of all rates that so many faces can carry.

    Args:
        scores: log-likelihoods by `ClassLikelihood.score`, of faces that were found, each image once.
        measured_on: name of the set.
    """
    quantiles = {rate: low_quantile(scores, rate) for rate in FALSE_ALARM_RATES}
    return tuple(
        LikelihoodThreshold(
            false_alarm_rate=rate,
            threshold=found.bound,
            interval=found.interval,
            false_alarms=found.below,
            faces=len(scores),
            measured_on=measured_on,
        )
        for rate, found in quantiles.items()
        if found is not None
    )
