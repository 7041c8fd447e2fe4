"""The front page's picture: it stands alone, is readable on light and on dark pages, and shows what was measured."""

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from facegm.align.found_face import Face, FaceQuality

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def script() -> Any:
    return load(DOCS / "make_picture.py")


def load(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def face(embedding: list[float]) -> Face:
    return Face(
        box=np.array([20.0, 30, 80, 110]),
        landmarks=np.array([[35.0, 60], [65, 60], [50, 75], [40, 90], [60, 90]]),
        probability=0.99,
        chip=np.full((128, 128, 3), 90, np.uint8),
        quality=FaceQuality(residual=1, profile=0, sharpness=100, contrast=40),
        embedding=np.array(embedding, np.float32),
    )


def looks_after_itself(source: str) -> ElementTree.Element:
    root = ElementTree.fromstring(source)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "style", "rect", "text", "image", "circle", "path")
    }
    pictures = [element.get("href", "") for element in root.iter(f"{SVG}image")]
    assert len(pictures) == 6
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    assert not re.search(r"url\(|@import", source)
    assert "prefers-color-scheme: dark" in source
    colours = re.findall(r"--(\w+): #", source)
    assert sorted(colours) == sorted([*{*colours}, *{*colours}]), "each colour for light and for dark"
    assert {*re.findall(r"var\(--(\w+)\)", source)} == {*colours}
    return root


def test_the_picture_that_is_shown_stands_alone() -> None:
    source = (DOCS / "road.svg").read_text()
    assert len(source) < MOST_BYTES
    looks_after_itself(source)


def test_histogram_and_distances_are_those_that_were_measured(script: Any, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.full((125, 125, 3), 200, np.uint8))
    rng = np.random.default_rng(0)
    same, different = rng.uniform(0.1, 1.0, 300), rng.uniform(0.8, 1.9, 500)
    distances = script.Distances(same=same, different=different, threshold=0.9, accuracy=0.875)
    faces = [face([1, 0, 0]), face([0.8, 0.6, 0]), face([-0.6, 0.8, 0])]
    root = looks_after_itself(script.picture([photo] * 3, faces, distances))

    bars = [element for element in root.iter(f"{SVG}rect") if "bar" in element.get("class", "")]
    tallest = max(float(bar.get("height", 0)) for bar in bars)
    counts = {
        kind: [round(float(bar.get("height", 0)), 1) for bar in bars if kind in bar.get("class", "")]
        for kind in ("same", "other")
    }
    naive = {
        kind: [sum(0.05 * k <= value < 0.05 * (k + 1) for value in values) for k in range(40)]
        for kind, values in (("same", same), ("other", different))
    }
    most = max(max(found) for found in naive.values())
    for kind, found in naive.items():
        assert counts[kind] == pytest.approx([tallest * count / most for count in found if count], abs=0.06)

    text = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert f"one person: {np.sqrt(0.2**2 + 0.6**2):.2f}" in text
    assert f"two people: {np.sqrt(1.6**2 + 0.8**2):.2f}" in text
    assert "threshold 0.90: 87.5 % right" in text
