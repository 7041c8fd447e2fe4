"""The page of two photos that were compared: both with the faces found, the chips, the distance and what it says."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from facegm.data.decoding import read_photo
from facegm.data.pages import jpeg_uri, render_page
from facegm.embedding.match import Match, MatchedPhoto

SHOWN_SIDE = 900
"""Longest side of a photo on the page, in pixels."""


def match_page(match: Match) -> str:
    """Render the page, which stands alone."""
    return render_page(
        "facegm.embedding/match.html.jinja",
        match=match,
        comparison=match.comparison,
        lines=list(match.lines()),
        photos=[_shown(match.a), _shown(match.b)],
    )


def _shown(photo: MatchedPhoto) -> dict[str, Any]:
    """What the page shows of a photo; boxes in pixels of the whole photo, which the picture's view box has."""
    width, height = photo.size
    boxes = [
        {"left": left, "top": top, "width": right - left, "height": bottom - top, "is_chosen": number == photo.chosen}
        for number, (left, top, right, bottom) in enumerate(face.box.tolist() for face in photo.faces)
    ]
    return {
        "name": photo.path.name,
        "width": width,
        "height": height,
        "picture": jpeg_uri(_shrunk(read_photo(photo.path))),
        "boxes": boxes,
        "stroke": max(width, height) / 250,
        "chip": jpeg_uri(photo.face.chip),
        "face": photo.face,
    }


def _shrunk(photo: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    height, width = photo.shape[:2]
    scale = SHOWN_SIDE / max(height, width)
    if scale >= 1:
        return photo
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
