"""What a store of aligned faces holds: counts, identities, quality, duplicates and time."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facegm.align.duplicates import Group, exact_duplicates, near_duplicates
from facegm.data.store import FaceRecord, count_statuses

QUANTILES = {"minimum": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "maximum": 1.0}


def face_size(record: FaceRecord) -> float | None:
    """Shorter side of the face's box, in pixels of the photo."""
    if record.box is None:
        return None
    left, top, right, bottom = record.box
    return min(right - left, bottom - top)


MEASURES: Mapping[str, Callable[[FaceRecord], float | None]] = {
    "residual": lambda record: record.residual,
    "profile": lambda record: record.profile,
    "sharpness": lambda record: record.sharpness,
    "contrast": lambda record: record.contrast,
    "probability": lambda record: record.probability,
    "face size": face_size,
}
"""What is measured of a face, as `FaceRecord` explains; residual and face size in pixels."""


@dataclass(frozen=True, kw_only=True)
class IdentityCounts:
    """How many usable photos, those with a face image, the identities of a store have."""

    identities: int
    quartiles: Sequence[float]
    """Minimum, quartiles and maximum: five numbers; none of an empty store."""
    fewer_than_two: int
    """Identities of which no two photos can be compared."""
    largest: str | None
    """The identity with the most usable photos."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The numbers of a store."""

    statuses: Counter[str]
    """As `facegm.data.store.count_statuses` counts them."""
    identities: IdentityCounts
    several_faces: int
    """Photos in which more than one face was found."""
    quantiles: Mapping[str, Sequence[float]]
    """At the levels of `QUANTILES`, for each of `MEASURES` that the store recorded."""
    exact: Sequence[Group] | None
    """Photos with the same bytes; None where the store recorded no digests."""
    near: Sequence[Group] | None
    """Photos of one identity whose faces look the same; None where the store recorded no hashes."""
    seconds: Sequence[tuple[float, ...]]
    """For each timed photo, the seconds of `facegm.align.timings.STAGES`."""


def inspect_records(records: Collection[FaceRecord], timings: Mapping[str, tuple[float, ...]]) -> Inspection:
    """Count and measure the photos of a store.

    Args:
        records: the lines of its manifest.
        timings: seconds of each stage by key, where they are known.
    """
    has_digests = any(record.digest is not None for record in records)
    has_hashes = any(record.perceptual_hash is not None for record in records)
    measured = {name: [measure(record) for record in records] for name, measure in MEASURES.items()}
    present = {name: [value for value in values if value is not None] for name, values in measured.items()}
    return Inspection(
        statuses=count_statuses(records),
        identities=_count_identities(records),
        several_faces=sum((record.faces or 0) > 1 for record in records),
        quantiles={name: _quantiles(values, [*QUANTILES.values()]) for name, values in present.items() if values},
        exact=exact_duplicates(records) if has_digests else None,
        near=near_duplicates(records) if has_hashes else None,
        seconds=list(timings.values()),
    )


def _count_identities(records: Iterable[FaceRecord]) -> IdentityCounts:
    usable: Counter[str] = Counter()
    for record in records:
        usable[record.identity] += record.has_face_image
    counts = list(usable.values())
    return IdentityCounts(
        identities=len(counts),
        quartiles=_quantiles(counts, [0, 0.25, 0.5, 0.75, 1]) if counts else (),
        fewer_than_two=sum(count < 2 for count in counts),
        largest=usable.most_common(1)[0][0] if counts else None,
    )


def _quantiles(values: Sequence[float], levels: Sequence[float]) -> list[float]:
    return [float(value) for value in np.quantile(values, levels)]
