"""The pictures of a store that are worth a look, on one HTML page that stands alone."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from facegm.align.columns import codes, known
from facegm.align.duplicates import Groups
from facegm.align.inspection import Inspection
from facegm.align.source_photos import SourcePhotos
from facegm.data.files import replace_atomically
from facegm.data.pages import jpeg_uri, render_page
from facegm.data.readers.photo import UnreadablePhotoError
from facegm.store.format import has_face
from facegm.store.reader import FaceStore

GROUP_SHOWN = 8
"""Photos shown of a group of duplicates."""
SEED = 0
"""The same store gives the same page."""

EXTREMES = (
    ("residual", "Worst alignment", "highest", "Landmarks furthest from the template: turned heads, false detections."),
    ("profile", "Most turned", "highest", "0 is frontal, 1 full profile."),
    ("sharpness", "Blurriest", "lowest", "Lowest variance of the Laplacian."),
    ("contrast", "Lowest contrast", "lowest", "Lowest standard deviation of the luminance."),
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
    usable = has_face(store.table(["status"])["status"])
    page = render_page(
        "facegm.align/inspection.html.jinja",
        folder=str(store.folder),
        summary=summary,
        sections=[
            _random_faces(store, usable, samples),
            *_extremes(store, usable, samples),
            _groups(store, usable, inspection.exact, samples, "Exact duplicates", "Photos with the same bytes."),
            _groups(
                store,
                usable,
                inspection.near,
                samples,
                "Near-duplicates",
                "Of one identity, with faces that look the same.",
            ),
            _without_face(store, samples),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, page.encode())


def _random_faces(store: FaceStore, usable: Bool[np.ndarray, " rows"], samples: int) -> Section:
    faces = np.flatnonzero(usable)
    drawn = random.Random(SEED).sample(range(len(faces)), min(samples, len(faces)))
    return Section(
        title="Random faces",
        explanation=f"{len(drawn):,} of {len(faces):,} usable photos.",
        figures=[_face(store, row) for row in faces[sorted(drawn)].tolist()],
    )


def _extremes(store: FaceStore, usable: Bool[np.ndarray, " rows"], samples: int) -> Iterator[Section]:
    for name, title, end, explanation in EXTREMES:
        column = store.table([name])[name]
        values = column.to_numpy()
        measured = np.flatnonzero(usable & known(column))
        order = np.argsort(-values[measured] if end == "highest" else values[measured], kind="stable")
        rows = measured[order[:samples]].tolist()
        figures = [_face(store, row, f"{name} {values[row]:.4g}") for row in rows]
        yield Section(title=title, explanation=explanation, figures=figures if len(measured) else None)


def _groups(
    store: FaceStore,
    usable: Bool[np.ndarray, " rows"],
    groups: Groups | None,
    samples: int,
    title: str,
    explanation: str,
) -> Section:
    if groups is None:
        return Section(title=title, explanation=explanation, figures=None)
    first = np.argsort(~groups.crossing, kind="stable")[:samples].tolist()
    figures = []
    for number in first:
        shown = groups[number][:GROUP_SHOWN].tolist()
        more = len(groups[number]) - len(shown)
        label = "several identities: a label is wrong" if groups.crossing[number] else None
        figures.append(
            Figure(
                photos=[(store.keys[row], jpeg_uri(store.read_face(row)) if usable[row] else None) for row in shown],
                remark="; ".join(filter(None, [label, f"and {more:,} more" if more else None])) or None,
            )
        )
    return Section(title=title, explanation=f"{explanation} {len(first):,} of {len(groups):,} groups.", figures=figures)


def _face(store: FaceStore, row: int, remark: str | None = None) -> Figure:
    return Figure(photos=[(store.keys[row], jpeg_uri(store.read_face(row)))], remark=remark)


def _without_face(store: FaceStore, samples: int) -> Section:
    table = store.table(["status", "reason"])
    statuses, status_names = codes(table["status"])
    reasons, reason_names = codes(table["reason"])
    aligned = status_names.index("aligned").as_py()
    rows = np.flatnonzero(statuses != aligned)
    # In turn from each reason, so that a rare one is seen beside thousands of a common one.
    by_reason = rows[np.argsort(reasons[rows], kind="stable")]
    of_each = np.split(by_reason, np.flatnonzero(np.diff(reasons[by_reason])) + 1)[:samples]
    drawn = [random.Random(SEED).sample(of_one.tolist(), min(samples, len(of_one))) for of_one in of_each]
    shown = list(islice((row for turn in zip_longest(*drawn) for row in turn if row is not None), samples))
    photos = SourcePhotos(store.settings)
    return Section(
        title="Photos without a found face",
        explanation=f"The original photos of {len(shown):,} of {len(rows):,} that failed or were centre-cropped; the "
        "manifest names all.",
        figures=[
            _source_photo(
                photos,
                store.keys[row],
                status_names[statuses[row]].as_py(),
                reason_names[reasons[row]].as_py() if reasons[row] >= 0 else None,
            )
            for row in shown
        ],
    )


def _source_photo(photos: SourcePhotos, key: str, status: str, reason: str | None) -> Figure:
    picture, now = None, None
    try:
        picture = jpeg_uri(photos.thumbnail(key))
    except UnreadablePhotoError as error:
        if str(error) != reason:
            now = f"now: {error}"
    return Figure(photos=[(key, picture)], remark=": ".join(filter(None, [status, reason, now])))
