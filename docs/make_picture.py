"""Draws the front page's picture, `docs/road.svg`, from what `facegm demo` has made.

    python docs/make_picture.py facegm-demo/seed-0 docs/road.svg

Two photos of one drawn person and one of another go the road: their faces as they are found, aligned and embedded, and
where their distances lie among those of all pairs of the demo's report. Nothing in it comes from a data set of faces.
"""

import json
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facegm import FaceEmbedder
from facegm.align.found_face import Face

PHOTOS = ("identity_0150/identity_0150_0005", "identity_0150/identity_0150_0008", "identity_0169/identity_0169_0005")
SCORE = "no PCA"
WIDTH, HEIGHT, TOP, SIDE, GAP = 960, 390, 58, 96, 10
PHOTOS_X, CHIPS_X, EMBEDDINGS_X, CHART_X, CHART_WIDTH = 24, 184, 344, 590, 346
BINS = np.linspace(0, 2, 41)
STYLE = """
    svg { --card: #ffffff; --ink: #1f2328; --faint: #59636e; --same: #1a7f7c; --other: #c2571a }
    @media (prefers-color-scheme: dark) {
      svg { --card: #161b22; --ink: #e6edf3; --faint: #9198a1; --same: #3fc4bf; --other: #f0883e }
    }
    text { font: 14px system-ui, sans-serif; fill: var(--ink) }
    .faint { fill: var(--faint); font-size: 12px }
    .same { fill: var(--same) } .other { fill: var(--other) }
    .line { stroke: var(--faint); fill: none } .box { stroke: #7ee787; stroke-width: 2; fill: none }
    .bar { fill-opacity: .55 }
"""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Those of the report's pairs."""

    same: np.ndarray
    """Of pairs of one person."""
    different: np.ndarray
    threshold: float
    """Mean over the folds."""
    accuracy: float


def read_distances(report: Path) -> Distances:
    """Read them from a `report.json`."""
    numbers = json.loads(report.read_text())
    variant = next(found for found in numbers["variants"] if found["variant"]["name"] == SCORE)
    distances, is_same = np.array(variant["distances"]), np.array(numbers["scored"]["same"], bool)
    return Distances(
        same=distances[is_same],
        different=distances[~is_same],
        threshold=variant["mean_threshold"],
        accuracy=variant["accuracy"],
    )


def picture(photos: list[Path], faces: list[Face], distances: Distances) -> str:
    """The whole picture; nothing in it is loaded from elsewhere."""
    a, b, other = (face.embedding for face in faces)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" style="fill: var(--card)"/>',
        *headings(),
        *(part for row in range(3) for part in face_row(row, photos[row], faces[row])),
        *chart(distances, {"one person": _distance(a, b), "two people": _distance(a, other)}),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f"<title>From photos to a verdict</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def headings() -> list[str]:
    """What each column is, and the command that makes it of the one before."""
    columns = [(PHOTOS_X, "photos", ""), (CHIPS_X, "aligned faces", "facegm align")]
    columns += [(EMBEDDINGS_X, "embeddings", "facegm train"), (CHART_X, "distances of 2,000 pairs", "facegm verify")]
    parts = []
    for x, name, command in columns:
        parts += [f'<text x="{x}" y="28">{name}</text>', f'<text class="faint" x="{x}" y="46">{command}</text>']
    return parts


def face_row(row: int, photo: Path, face: Face) -> list[str]:
    """One photo with its face, the aligned face, and the first numbers of its embedding."""
    pixels = cv2.imread(str(photo))
    assert pixels is not None
    y = TOP + row * (SIDE + GAP)
    scale = SIDE / max(pixels.shape[:2])
    left, top, right, bottom = np.asarray(face.box) * scale
    dots = "".join(
        f'<circle cx="{PHOTOS_X + x:.1f}" cy="{y + down:.1f}" r="1.8" fill="#7ee787"/>'
        for x, down in np.asarray(face.landmarks) * scale
    )
    middle = y + SIDE / 2
    arrows = [(PHOTOS_X + SIDE, CHIPS_X), (CHIPS_X + SIDE, EMBEDDINGS_X), (EMBEDDINGS_X + 206, CHART_X - 8)]
    return [
        _image(pixels, PHOTOS_X, y),
        f'<rect class="box" x="{PHOTOS_X + left:.1f}" y="{y + top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}"/>{dots}',
        _image(cv2.cvtColor(np.asarray(face.chip), cv2.COLOR_RGB2BGR), CHIPS_X, y),
        *_numbers(np.asarray(face.embedding), EMBEDDINGS_X, middle, "same" if row < 2 else "other"),
        *(
            f'<path class="line" d="M{x0 + 8} {middle} H{x1 - 10} m-6 -4 l6 4 l-6 4"/>'
            for x0, x1 in arrows[: 2 if row != 1 else 3]
        ),
    ]


def chart(distances: Distances, shown: dict[str, float]) -> list[str]:
    """Histograms of both kinds of pairs, the threshold, and where the pairs of the photos lie."""
    floor, height = HEIGHT - 62, HEIGHT - 62 - TOP - 34
    counts = {"same": np.histogram(distances.same, BINS)[0], "other": np.histogram(distances.different, BINS)[0]}
    most = max(int(count.max()) for count in counts.values())
    step = CHART_WIDTH / len(BINS[1:])
    parts = [
        f'<rect class="bar {kind}" x="{CHART_X + number * step:.1f}" y="{floor - height * count / most:.1f}" '
        f'width="{step - 0.8:.1f}" height="{height * count / most:.1f}"/>'
        for kind, found in counts.items()
        for number, count in enumerate(found.tolist())
        if count
    ]
    threshold = _across(distances.threshold)
    parts += [
        f'<path class="line" d="M{CHART_X} {floor} H{CHART_X + CHART_WIDTH}"/>',
        f'<path class="line" stroke-dasharray="4 3" d="M{threshold:.1f} {floor} V{TOP + 8}"/>',
        f'<text class="faint" text-anchor="end" x="{CHART_X + CHART_WIDTH}" y="{TOP + 18}">'
        f"threshold {distances.threshold:.2f}: "
        f"{100 * distances.accuracy:.1f} % right</text>",
        *(
            f'<text class="faint" text-anchor="middle" x="{_across(at):.1f}" y="{floor + 16}">{at:g}</text>'
            for at in (0, 0.5, 1, 1.5, 2)
        ),
    ]
    for (name, distance), kind in zip(shown.items(), ("same", "other"), strict=True):
        x = _across(distance)
        parts += [
            f'<path class="{kind}" d="M{x:.1f} {floor - 2} l-7 -14 h14 z"/>',
            f'<text class="{kind}" text-anchor="middle" x="{x:.1f}" y="{floor + 36}">{name}: {distance:.2f}</text>',
        ]
    return parts


def _across(distance: float) -> float:
    return CHART_X + CHART_WIDTH * distance / 2


def _distance(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)))


def _image(pixels: np.ndarray, x: float, y: float) -> str:
    small = cv2.resize(pixels, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_AREA)
    _, code = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    data = b64encode(code.tobytes()).decode()
    return f'<image x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" href="data:image/jpeg;base64,{data}"/>'


def _numbers(embedding: np.ndarray, x: float, middle: float, kind: str, *, count: int = 40) -> list[str]:
    """Bars, up or down, of the first numbers."""
    heights = 40 * embedding[:count] / np.abs(embedding[:count]).max()
    return [
        f'<rect class="{kind}" x="{x + 5 * number}" y="{middle - max(tall, 0):.1f}" width="3.6" '
        f'height="{abs(tall):.1f}"/>'
        for number, tall in enumerate(heights.tolist())
    ]


def main(demo: Path, output: Path) -> None:
    """Embed the three photos by the demo's own network, and draw."""
    photos = [demo / "photos" / "held-out" / f"{name}.jpg" for name in PHOTOS]
    embedder = FaceEmbedder.load(demo / "run")
    faces = [embedder.find(photo)[0] for photo in photos]
    output.write_text(picture(photos, faces, read_distances(demo / "report" / "report.json")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
