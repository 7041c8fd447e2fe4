"""The inspection of a store as plain text."""

from collections.abc import Sequence

import numpy as np

from facegm.align.duplicates import Group, crosses_identities
from facegm.align.inspection import QUANTILES, IdentityCounts, Inspection
from facegm.align.timings import STAGES
from facegm.data.names import printable

NAMED = 5
"""Groups of duplicates of each kind, and photos of each group, that are named."""


def describe(inspection: Inspection) -> str:
    """All that an inspection found except the statuses, a few lines of text."""
    lines = [
        *_identities(inspection.identities),
        f"several faces found in {inspection.several_faces:,} photos",
        *_quantiles(inspection),
        *_duplicates("exact duplicates", inspection.exact, "digests"),
        *_duplicates("near-duplicates within an identity", inspection.near, "perceptual hashes"),
        *_seconds(inspection.seconds),
    ]
    return "\n".join(lines)


def _identities(counts: IdentityCounts) -> list[str]:
    if counts.largest is None:
        return ["no photos"]
    least, *quartiles, most = (f"{value:,g}" for value in counts.quartiles)
    return [
        f"{counts.identities:,} identities, {counts.fewer_than_two:,} of them with fewer than 2 usable photos",
        f"usable photos of an identity: at least {least}, quartiles {', '.join(quartiles)}, "
        f"at most {most} ({printable(counts.largest)})",
    ]


def _quantiles(inspection: Inspection) -> list[str]:
    rows = [("", QUANTILES), *((name, map("{:.4g}".format, row)) for name, row in inspection.quantiles.items())]
    return [f"{name:<11}" + "".join(f"{cell:>10}" for cell in cells) for name, cells in rows] if rows[1:] else []


def _duplicates(kind: str, groups: Sequence[Group] | None, recorded: str) -> list[str]:
    if groups is None:
        return [f"{kind}: not known, this store has no {recorded}"]
    crossing = [group for group in groups if crosses_identities(group)]
    within = [group for group in groups if not crosses_identities(group)]
    lines = [f"{kind}: {_count(groups)}, {sum(map(len, groups)):,} photos"]
    if crossing:
        lines += [f"  one photo under several identities, a label error: {_count(crossing)}", *_named(crossing)]
        lines += [f"  within an identity: {_count(within)}"]
    return lines + _named(within)


def _count(groups: Sequence[Group]) -> str:
    return f"{len(groups):,} group{'' if len(groups) == 1 else 's'}"


def _named(groups: Sequence[Group]) -> list[str]:
    lines = []
    for group in groups[:NAMED]:
        names = [printable(record.key) for record in group[:NAMED]]
        lines.append("    " + " = ".join(names) + (f" and {len(group) - NAMED:,} more" if len(group) > NAMED else ""))
    return lines + ([f"    and {len(groups) - NAMED:,} more groups"] if len(groups) > NAMED else [])


def _seconds(seconds: Sequence[tuple[float, ...]]) -> list[str]:
    if not seconds:
        return []
    stages = np.mean(seconds, axis=0)
    parts = ", ".join(f"{name} {mean:.4f}" for name, mean in zip(STAGES, stages, strict=True))
    return [
        f"seconds a photo, mean of {len(seconds):,}: {stages.sum():.4f} ({parts}); "
        f"at most {np.sum(seconds, axis=1).max():.4f}"
    ]
