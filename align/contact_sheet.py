"""The pictures of a store that are worth a look, on one HTML page that stands alone."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from itertools import islice, zip_longest
from pathlib import Path

from facegm.align.duplicates import Group, crosses_identities
from facegm.align.inspection import MEASURES, Inspection
from facegm.align.original_photos import OriginalPhotos
from facegm.data.files import replace_atomically
from facegm.data.pages import jpeg_uri, render_page
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.data.store import FaceRecord, FaceStore

GROUP_SHOWN = 8
"""Photos shown of a group of duplicates."""
SEED = 0
"""The same store gives the same page."""

EXTREMES = (
    ("residual", "Worst alignment", nlargest, "Landmarks furthest from the template: turned heads, false detections."),
    ("profile", "Most turned", nlargest, "0 is frontal, 1 full profile."),
    ("sharpness", "Blurriest", nsmallest, "Lowest variance of the Laplacian."),
    ("contrast", "Lowest contrast", nsmallest, "Lowest standard deviation of the luminance."),
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One or several photos side by side, and what is said of them."""

    photos: Sequence[tuple[str, str | None]]
    """Key of each, and its picture as a `data:` address."""
    remark: str | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures under one title."""

    title: str
    explanation: str
    figures: Sequence[Figure] | None
    """None where the store did not record what is looked for."""


def write_contact_sheet(path: Path, store: FaceStore, inspection: Inspection, *, summary: str, samples: int) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: the HTML file; its folder is made if need be.
        store: the aligned faces; of their pictures only those shown are read.
        inspection: its numbers.
        summary: the same as text, to stand at the top.
        samples: photos, or groups of duplicates, that each section shows at most.

    Raises:
        FacegmError: a picture of the store is missing or damaged.
    """
    page = render_page(
        "facegm.align/inspection.html.jinja",
        folder=str(store.folder),
        summary=summary,
        sections=[
            _random_faces(store, samples),
            *_extremes(store, samples),
            _groups(store, inspection.exact, samples, "Exact duplicates", "Photos with the same bytes."),
            _groups(
                store, inspection.near, samples, "Near-duplicates", "Of one identity, with faces that look the same."
            ),
            _without_face(store, samples),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, page.encode())


def _random_faces(store: FaceStore, samples: int) -> Section:
    faces = [record for record in store.records.values() if record.has_face_image]
    drawn = random.Random(SEED).sample(range(len(faces)), min(samples, len(faces)))
    return Section(
        title="Random faces",
        explanation=f"{len(drawn):,} of {len(faces):,} usable photos.",
        figures=[_figure(store, [faces[index]]) for index in sorted(drawn)],
    )


def _extremes(store: FaceStore, samples: int) -> Iterator[Section]:
    for name, title, choose, explanation in EXTREMES:
        values = [(MEASURES[name](record), record) for record in store.records.values() if record.has_face_image]
        measured = [(value, record) for value, record in values if value is not None]
        chosen = choose(samples, measured, key=lambda pair: pair[0])
        figures = [_figure(store, [record], f"{name} {value:.4g}") for value, record in chosen]
        yield Section(title=title, explanation=explanation, figures=figures if measured else None)


def _groups(store: FaceStore, groups: Sequence[Group] | None, samples: int, title: str, explanation: str) -> Section:
    if groups is None:
        return Section(title=title, explanation=explanation, figures=None)
    first = sorted(groups, key=crosses_identities, reverse=True)[:samples]
    remarks = ["several identities: a label is wrong" if crosses_identities(group) else None for group in first]
    return Section(
        title=title,
        explanation=f"{explanation} {len(first):,} of {len(groups):,} groups.",
        figures=[_figure(store, group, remark) for group, remark in zip(first, remarks, strict=True)],
    )


def _figure(store: FaceStore, records: Sequence[FaceRecord], remark: str | None = None) -> Figure:
    shown = records[:GROUP_SHOWN]
    more = f"and {len(records) - len(shown):,} more" if len(records) > len(shown) else None
    return Figure(
        photos=[(r.key, jpeg_uri(store.read_face(r.key)) if r.has_face_image else None) for r in shown],
        remark="; ".join(filter(None, [remark, more])) or None,
    )


def _without_face(store: FaceStore, samples: int) -> Section:
    by_reason: dict[str | None, list[FaceRecord]] = defaultdict(list)
    for record in store.records.values():
        if record.status != "aligned":
            by_reason[record.reason].append(record)
    for records in by_reason.values():
        random.Random(SEED).shuffle(records)
    # In turn from each reason, so that a rare one is seen beside thousands of a common one.
    in_turn = (record for row in zip_longest(*by_reason.values()) for record in row if record is not None)
    shown = list(islice(in_turn, samples))
    photos = OriginalPhotos(store.settings)
    count = sum(map(len, by_reason.values()))
    return Section(
        title="Photos without a found face",
        explanation=f"The original photos of {len(shown):,} of {count:,} that failed or were centre-cropped; the "
        "manifest names all.",
        figures=[_original(photos, record) for record in shown],
    )


def _original(photos: OriginalPhotos, record: FaceRecord) -> Figure:
    picture, now = None, None
    try:
        picture = jpeg_uri(photos.thumbnail(record.key))
    except UnreadablePhotoError as error:
        if str(error) != record.reason:
            now = f"now: {error}"
    return Figure(photos=[(record.key, picture)], remark=": ".join(filter(None, [record.status, record.reason, now])))
