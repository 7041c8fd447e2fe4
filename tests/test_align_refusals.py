"""Protects what is not to be touched: an output that is no store, a store of other settings, a damaged manifest."""

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from stores import NamedFaces, contents

from facegm.align.config import AlignConfig
from facegm.align.pipeline import align_photos
from facegm.errors import FacegmError
from facegm.store.format import MANIFEST_FILE


@pytest.mark.parametrize(("stored", "asked"), [("skip", "center-crop"), ("center-crop", "skip")])
def test_a_store_is_not_continued_with_other_settings(
    tmp_path: Path, stored: Literal["skip", "center-crop"], asked: Literal["skip", "center-crop"]
) -> None:
    align_photos(Path("photos"), tmp_path / "store", photos=[], config=AlignConfig(on_missing=stored))
    before = contents(tmp_path / "store")
    with pytest.raises(FacegmError, match=f"made otherwise .on_missing: {stored}, now {asked}"):
        align_photos(Path("photos"), tmp_path / "store", photos=[], config=AlignConfig(on_missing=asked))
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "thesis"
    if kind == "folder":
        output.mkdir()
        (output / "chapter.tex").write_text("years of work")
    else:
        output.write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(FacegmError, match="exists and is not a store of aligned faces"):
        align_photos(tmp_path / "photos", output, AlignConfig(), photos=[])
    assert contents(tmp_path) == before


def test_an_empty_folder_may_become_a_store_and_an_empty_input_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(FacegmError, match="no photo found"):
        align_photos(tmp_path / "photos", tmp_path / "store", AlignConfig())
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()
    summary = align_photos(Path("photos"), tmp_path / "store", photos=[], config=AlignConfig())
    assert summary.store.statuses == Counter()
    assert NamedFaces(tmp_path / "store").records == {}


def test_a_damaged_manifest_stops_before_anything_is_added(tmp_path: Path) -> None:
    align_photos(Path("photos"), tmp_path / "store", photos=[], config=AlignConfig())
    (tmp_path / "store" / MANIFEST_FILE).write_text("{}\n")
    with pytest.raises(FacegmError, match=r"manifest\.parquet: damaged"):
        align_photos(Path("photos"), tmp_path / "store", photos=[], config=AlignConfig())


@pytest.mark.parametrize("workers", [0, -1])
def test_there_is_at_least_one_worker(workers: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        AlignConfig(workers=workers)


def test_a_store_inside_the_photos_folder_is_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"a photo")
    with pytest.raises(FacegmError, match="lies inside the photos' own folder"):
        align_photos(photos, photos / "store", AlignConfig(workers=1))
    assert not (photos / "store").exists()
