"""What distances and likelihoods of an embedder mean, as though it had been measured."""

from facegm.embedding.calibration import Calibration, MatchThreshold
from facegm.embedding.likelihood import LikelihoodThreshold

CALIBRATION = Calibration(
    measured_on="pairs",
    same=30,
    different=30,
    offset=6.0,
    slope=-5.0,
    cllr=0.3,
    minimum_cllr=0.28,
    calibration_error=0.01,
    thresholds=(MatchThreshold(false_match_rate=0.1, threshold=1.3, interval=(None, 1.4), false_matches=3),),
)
LIKELIHOOD = LikelihoodThreshold(
    false_alarm_rate=0.01, threshold=-90.0, interval=(None, -80.0), false_alarms=1, faces=100, measured_on="pairs"
)
