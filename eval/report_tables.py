"""What the report's page says in words and tables: the protocol box, scores with their thresholds, errors, facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from facegm import __version__
from facegm.data.names import printable
from facegm.eval.evaluation import VerificationReport
from facegm.eval.provenance import NOT_KNOWN
from facegm.eval.rates import Rate
from facegm.eval.scores import Cosine, FittedPlda, FoldPlda, Score, Variant
from facegm.identity import dotted


def threshold_text(score: Score, threshold: float) -> str:
    """A threshold on a score's distance as readers expect it: similarities are turned round again."""
    if isinstance(score, Cosine):
        return f"similarity > {1 - threshold:.4f}"
    if isinstance(score, FoldPlda | FittedPlda):
        return f"log ratio > {-threshold:.2f}"
    return f"distance < {threshold:#.4g}"


def protocol_rows(report: VerificationReport) -> list[tuple[str, str]]:
    """What was done, in plain words, a topic a row."""
    pairs, primary = report.pairs, report.primary
    folds = len(primary.fold_accuracy)
    same = int(pairs.same.sum())
    on_them = "" if report.people is None else f" of {report.people:,} people"
    return [
        (
            "pairs",
            f"{len(pairs):,}: {same:,} of one person, {len(pairs) - same:,} of different people, of "
            f"{len(pairs.images):,} images{on_them}. Folds: {pairs.fold_origin}.",
        ),
        ("pairs dropped", _dropped_text(report)),
        ("embedding", report.facts.get("embedding", "As it was brought; how it was computed is not known here.")),
        ("score of the headline", _score_text(primary.variant)),
        (
            "threshold",
            f"For each of the {folds} folds the one that judges most pairs of the {folds - 1} others rightly, found "
            "exactly. No pair has a say in the threshold, PCA or other fit that it is judged by.",
        ),
        ("faces not found", _fallback_text(report)),
        (
            "intervals",
            "Accuracy: mean over the folds, ± its standard error. 95 % intervals: bootstrap of "
            f"{report.intervals.unit}, {report.intervals.resamples:,} resamples{_unit_text(report)}; of single rates "
            "Clopper and Pearson's exact one, as if pairs were independent. They speak of these pairs and this one "
            "model: other trainings of the same recipe scatter too.",
        ),
        (
            "training identities",
            NOT_KNOWN if report.provenance.training is None else printable(report.provenance.training.sentence()),
        ),
    ]


def _dropped_text(report: VerificationReport) -> str:
    if report.dropped is None:
        return "None: every pair is scored."
    return (
        f"{printable(report.dropped.describe())}. Hard pairs are dropped most often, so these figures are too good to "
        "be compared with those of the whole set."
    )


def _score_text(score: Score) -> str:
    if not isinstance(score, Variant):
        return score.name
    steps = ["Embeddings at unit length" if score.normalise else "Embeddings as they are"]
    if score.components is not None:
        steps += [
            f"PCA to {score.components} dimensions, fitted on the training folds' images, centred, not whitened",
            "scaled to unit length again" if score.renormalise else "not scaled again",
        ]
    return "; ".join([*steps, "L2 distance."])


def _fallback_text(report: VerificationReport) -> str:
    images, pairs = len(report.fallback_images), int((~report.acquired).sum())
    if not images:
        return "None."
    return (
        f"{counted(images, 'image')}, in {counted(pairs, 'pair')}. The middle of the photo stands in. In the accuracy "
        "it is scored like all others; FAR and FRR count these pairs as rejected, FMR and FNMR leave them out."
    )


def counted(number: int, noun: str) -> str:
    """So many of something: `1 image`, `2,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _unit_text(report: VerificationReport) -> str:
    is_known = report.intervals.unit == "people"
    return "" if is_known else " (who is on the pairs is not known, so these may be too narrow)"


def score_rows(report: VerificationReport, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of scores: the figures of `report.json`, and the mean threshold in words."""
    verifications = [*report.verifications, *([] if report.baseline is None else [report.baseline])]
    rows = [*numbers["variants"], *([] if report.baseline is None else [numbers["baseline"]])]
    return [
        {"calibration": None, **row, "name": score.name, "threshold": threshold_text(score, row["mean_threshold"])}
        for score, row in zip((one.variant for one in verifications), rows, strict=True)
    ]


def rate_rows(report: VerificationReport) -> list[tuple[str, str, str, Rate]]:
    """Error rates of the comparison and of the system: short name, what it is, of which pairs, and the rate."""
    point = report.operating_point
    return [
        ("FMR", "false match rate", "pairs of different people, both faces found", point.false_match),
        ("FNMR", "false non-match rate", "pairs of one person, both faces found", point.false_non_match),
        ("FTA", "failure to acquire", "all pairs", point.failure_to_acquire),
        ("FAR", "false accept rate", "all pairs of different people", point.false_accept),
        ("FRR", "false reject rate", "all pairs of one person", point.false_reject),
    ]


def fact_rows(report: VerificationReport) -> Sequence[tuple[str, str]]:
    """Model and run: what the caller tells, the weights' hash, the version, and how the scored faces were made."""
    provenance = report.provenance
    known = [("weights (SHA-256)", provenance.model_digest), ("facegm", __version__)]
    return [
        *((name, printable(fact)) for name, fact in report.facts.items()),
        *((name, value) for name, value in known if value is not None),
    ]


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that may have sections, a key a row, with dots."""
    return [(key, printable(str(value))) for key, value in dotted(settings)]
