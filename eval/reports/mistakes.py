"""The pairs that are judged wrong most clearly, with their pictures."""

import numpy as np
from jaxtyping import Int

from facegm.data.names import printable
from facegm.data.pages import jpeg_uri
from facegm.eval.evaluation import FaceOf, VerificationReport

HARDEST = 12
"""Pairs shown of each kind of mistake."""


def hardest_pairs(report: VerificationReport, *, same: bool) -> Int[np.ndarray, " hardest"]:
    """Find the wrongly judged pairs furthest on the wrong side of their own fold's threshold, worst first.

    Args:
        report: the results; the primary score's are looked at.
        same: True for false rejects (one person, too far apart), False for false accepts.

    Returns:
        At most `HARDEST` positions in the report's pairs.
    """
    primary, pairs = report.primary, report.pairs
    excess = primary.distances - primary.fold_threshold[pairs.fold]
    wrong = np.flatnonzero((report.accepted != pairs.same) & (pairs.same == same))
    return wrong[np.argsort(-np.abs(excess[wrong]), kind="stable")][:HARDEST]


def pictures(report: VerificationReport, face_of: FaceOf | None, *, same: bool) -> list[dict[str, object]]:
    """The hardest pairs as the page shows them.

    Args:
        report: the results.
        face_of: aligned face of an image name; None shows names alone.
        same: as for `hardest_pairs`.
    """
    pairs, primary = report.pairs, report.primary
    return [
        {
            "faces": [
                (printable(name), None if face_of is None else jpeg_uri(face_of(name)))
                for name in (pairs.names_a[pair], pairs.names_b[pair])
            ],
            "distance": primary.distances[pair],
            "threshold": primary.fold_threshold[pairs.fold[pair]],
        }
        for pair in hardest_pairs(report, same=same)
    ]
