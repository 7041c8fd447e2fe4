"""What a store of aligned faces holds: counts, identities, quality and duplicates."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from facegm.align.columns import codes
from facegm.align.duplicates import Groups, exact_duplicates, near_duplicates
from facegm.store.format import count_statuses, has_face

QUANTILES = {"minimum": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "maximum": 1.0}
MEASURES = ("residual", "profile", "sharpness", "contrast", "probability")
"""Columns that measure a face, as `FaceRecord` explains; the residual in pixels."""


class Manifest(Protocol):
    """What can be asked for columns of a manifest, as a `FaceStore` can."""

    def table(self, columns: Sequence[str]) -> pa.Table:
        """The columns, a row a photo."""


@dataclass(frozen=True, kw_only=True)
class IdentityCounts:
    """How many usable photos, those with a face image, the identities of a store have."""

    identities: int
    quartiles: Sequence[float]
    """Minimum, quartiles and maximum: five numbers; none where there is no identity."""
    fewer_than_two: int
    """Identities of which no two photos can be compared."""
    largest: str | None
    """The identity with the most usable photos."""
    unknown: int
    """Usable photos of no known identity, which belong to none of these."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The numbers of a store."""

    statuses: Counter[str]
    """As `facegm.store.format.count_statuses` counts them."""
    identities: IdentityCounts
    several_faces: int
    """Photos in which more than one face was found."""
    quantiles: Mapping[str, Sequence[float]]
    """At the levels of `QUANTILES`, for each of `MEASURES` that the store recorded, and the `face size`: the shorter
    side of the face's box, in pixels of the photo."""
    exact: Groups | None
    """Photos with the same bytes; None where the store recorded no digests."""
    near: Groups | None
    """Photos of one identity whose faces look the same; None where the store recorded no hashes."""


def inspect_manifest(manifest: Manifest) -> Inspection:
    """Count and measure the photos of a store; no more columns are read at a time than are counted together."""
    return Inspection(
        statuses=count_statuses(manifest.table(["status", "reason"])),
        identities=_count_identities(manifest.table(["identity", "status"])),
        several_faces=int((manifest.table(["faces"])["faces"].to_numpy() > 1).sum()),
        quantiles=_measure(manifest),
        exact=_duplicates(exact_duplicates, manifest.table(["identity", "digest"])),
        near=_duplicates(near_duplicates, manifest.table(["identity", "digest", "perceptual_hash"])),
    )


def _duplicates(search: Callable[[pa.Table], Groups], table: pa.Table) -> Groups | None:
    """Search by the last column, if the store recorded it for any photo."""
    return search(table) if table.column(-1).null_count < len(table) else None


def _measure(manifest: Manifest) -> dict[str, list[float]]:
    quantiles = {}
    for name in (*MEASURES, "face size"):
        values = _face_sizes(manifest) if name == "face size" else manifest.table([name])[name].drop_null().to_numpy()
        if len(values):
            quantiles[name] = _quantiles(values, [*QUANTILES.values()])
    return quantiles


def _face_sizes(manifest: Manifest) -> Float64[np.ndarray, " measured"]:
    boxes = manifest.table(["box"])["box"].drop_null().combine_chunks()
    left, top, right, bottom = boxes.flatten().to_numpy().reshape(-1, 4).T
    return np.asarray(np.minimum(right - left, bottom - top))


def _count_identities(table: pa.Table) -> IdentityCounts:
    identities, names = codes(table["identity"])
    usable = has_face(table["status"])
    counts = np.bincount(identities[usable & (identities >= 0)], minlength=len(names))
    return IdentityCounts(
        identities=len(names),
        quartiles=_quantiles(counts, [0, 0.25, 0.5, 0.75, 1]) if len(names) else (),
        fewer_than_two=int((counts < 2).sum()),
        largest=names[int(counts.argmax())].as_py() if len(names) else None,
        unknown=int((usable & (identities < 0)).sum()),
    )


def _quantiles(
    values: Float64[np.ndarray, " measured"] | Int64[np.ndarray, " counted"], levels: Sequence[float]
) -> list[float]:
    return [float(value) for value in np.quantile(values, levels)]
