"""The inspection of a store as plain text."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from facegm.align.duplicates import Groups
from facegm.align.inspection import QUANTILES, IdentityCounts, Inspection
from facegm.align.near_hashes import EXHAUSTIVE_SIZE
from facegm.data.names import printable

NAMED = 5
"""Groups of duplicates of each kind, and photos of each group, that are named."""


def describe(inspection: Inspection, key: Callable[[int], str]) -> str:
    """All that an inspection found except the statuses, a few lines of text.

    Args:
        inspection: the numbers.
        key: gives the key of a row of the manifest.
    """
    faces = inspection.statuses["aligned"] + inspection.statuses["center-crop"]
    lines = [
        *_identities(inspection.identities, faces),
        f"several faces found in {inspection.several_faces:,} photos",
        *_quantiles(inspection),
        *_duplicates("exact duplicates", inspection.exact, "digests", key),
        *_duplicates("near-duplicates within an identity", inspection.near, "perceptual hashes", key),
    ]
    largest = max([inspection.identities.unknown, *inspection.identities.quartiles])
    if inspection.near is not None and largest > EXHAUSTIVE_SIZE:
        lines.append(f"  among more than {EXHAUSTIVE_SIZE:,} photos of an identity a few pairs may be missed")
    return "\n".join(lines)


def identity_remarks(*, identities: int, faces: int, unknown: int) -> list[str]:
    """The number of identities, and what is odd about it: a line each.

    Args:
        identities: how many are known.
        faces: photos with a face image, those of no known identity included.
        unknown: those of no known identity among them.
    """
    lines = [f"{identities:,} {'identity' if identities == 1 else 'identities'}"]
    known = faces - unknown
    if identities == 1:
        lines.append(
            "warning: one identity alone; training needs several: is each person's folder below the given one?"
        )
    elif known and identities >= known:
        lines.append(
            f"warning: {identities:,} identities for {known:,} faces, and training needs several faces of a person: "
            "do the folders name the persons?"
        )
    if unknown:
        lines.append(f"{unknown:,} faces of no known identity, which count as none")
    return lines


def _identities(counts: IdentityCounts, faces: int) -> list[str]:
    if counts.largest is None and not counts.unknown:
        return ["no photos"]
    number, *remarks = identity_remarks(identities=counts.identities, faces=faces, unknown=counts.unknown)
    if counts.largest is None:
        return [number, *remarks]
    least, *quartiles, most = (f"{value:,g}" for value in counts.quartiles)
    return [
        f"{number}, {counts.fewer_than_two:,} of them with fewer than 2 usable photos",
        f"usable photos of an identity: at least {least}, quartiles {', '.join(quartiles)}, "
        f"at most {most} ({printable(counts.largest)})",
        *remarks,
    ]


def _quantiles(inspection: Inspection) -> list[str]:
    rows = [("", QUANTILES), *((name, map("{:.4g}".format, row)) for name, row in inspection.quantiles.items())]
    return [f"{name:<11}" + "".join(f"{cell:>10}" for cell in cells) for name, cells in rows] if rows[1:] else []


def _duplicates(kind: str, groups: Groups | None, recorded: str, key: Callable[[int], str]) -> list[str]:
    if groups is None:
        return [f"{kind}: not known, this store has no {recorded}"]
    crossing, within = np.flatnonzero(groups.crossing), np.flatnonzero(~groups.crossing)
    lines = [f"{kind}: {_count(len(groups))}, {len(groups.rows):,} photos"]
    if len(crossing):
        lines.append(f"  one photo under several identities, a label error: {_count(len(crossing))}")
        lines += [*_named(groups, crossing, key), f"  within an identity: {_count(len(within))}"]
    return lines + _named(groups, within, key)


def _count(groups: int) -> str:
    return f"{groups:,} group{'' if groups == 1 else 's'}"


def _named(groups: Groups, chosen: Int64[np.ndarray, " chosen"], key: Callable[[int], str]) -> list[str]:
    lines = []
    for number in chosen[:NAMED].tolist():
        names = [printable(key(row)) for row in groups[number][:NAMED].tolist()]
        more = len(groups[number]) - NAMED
        lines.append("    " + " = ".join(names) + (f" and {more:,} more" if more > 0 else ""))
    return lines + ([f"    and {len(chosen) - NAMED:,} more groups"] if len(chosen) > NAMED else [])
