"""The demo's synthetic photos: reproducible, same people alike and others not, and a sound list of pairs."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegm.demo.identity import draw_identity
from facegm.demo.photo import take_neutral_photo, take_photo
from facegm.demo.photos import write_pairs, write_photos
from facegm.demo.portraits import PHOTO_SIDE, base_portraits
from facegm.errors import FacegmError


def photo(index: int, number: int, seed: int = 0) -> np.ndarray:
    return take_photo(draw_identity(index, seed=seed), np.random.default_rng([seed, index, number]))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of the middle of two photos (the face), in grey levels."""
    face = slice(PHOTO_SIDE // 4, 3 * PHOTO_SIDE // 4)
    return float(np.abs(a[face, face].astype(float) - b[face, face].astype(float)).mean())


def test_photo_is_a_function_of_seed_identity_and_number() -> None:
    """Two runs of the demo must train on the same pixels; another seed or number must give another picture."""
    first = photo(3, 1)
    assert first.shape == (PHOTO_SIDE, PHOTO_SIDE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, photo(3, 1))
    assert difference(first, photo(3, 2)) > 5
    assert difference(first, photo(3, 1, seed=1)) > 5


def test_identities_differ_without_pose_and_light() -> None:
    """The task must be solvable: an identity is visible in geometry, tone and texture, not in the background."""
    neutral = [take_neutral_photo(draw_identity(index, seed=0)) for index in range(8)]
    np.testing.assert_array_equal(neutral[0], take_neutral_photo(draw_identity(0, seed=0)))
    differences = [difference(neutral[a], neutral[b]) for a in range(8) for b in range(a)]
    assert min(differences) > 5


def test_light_and_pose_dominate_raw_pixels() -> None:
    """The task must not be trivial: two photos of one person differ about as much as photos of two people."""
    photos = [[photo(index, number) for number in range(1, 4)] for index in range(6)]
    same = np.mean([difference(person[0], other) for person in photos for other in person[1:]])
    different = np.mean([difference(a[0], b[0]) for a in photos for b in photos if a is not b])
    assert 0.6 < same / different < 1


def test_files_have_the_layout_and_pixels_of_lfw(tmp_path: Path) -> None:
    """The alignment step reads LFW's `<Name>/<Name>_%04d.jpg`; a file must show the photo in the right colours."""
    assert write_photos(tmp_path, identities=range(6, 8), photos_per_identity=2, seed=0) == 4
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    names = ["identity_0006", "identity_0007"]
    assert files == [f"{name}/{name}_{number:04d}.jpg" for name in names for number in (1, 2)]
    stored = cv2.imread(str(tmp_path / files[3]), cv2.IMREAD_COLOR_RGB)
    assert stored is not None
    assert difference(np.asarray(stored), photo(7, 2)) < 3


def test_rerun_writes_only_what_is_missing(tmp_path: Path) -> None:
    """An interrupted run goes on where it stopped, and ends with the same files as an uninterrupted one."""
    write_photos(tmp_path, identities=range(2), photos_per_identity=2, seed=0)
    kept, lost = (tmp_path / f"identity_0001/identity_0001_000{number}.jpg" for number in (1, 2))
    lost_bytes = lost.read_bytes()
    lost.unlink()
    kept.write_bytes(b"left alone")
    assert write_photos(tmp_path, identities=range(2), photos_per_identity=2, seed=0) == 1
    assert lost.read_bytes() == lost_bytes
    assert kept.read_bytes() == b"left alone"
    assert write_photos(tmp_path, identities=range(2), photos_per_identity=2, seed=0) == 0


@settings(max_examples=40, deadline=None)
@given(
    folds=st.integers(1, 5),
    people_per_fold=st.integers(2, 4),
    spare_people=st.integers(0, 4),
    photos_per_identity=st.integers(2, 5),
    first=st.integers(0, 300),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_pairs_are_distinct_and_folds_share_nobody(
    folds: int,
    people_per_fold: int,
    spare_people: int,
    photos_per_identity: int,
    first: int,
    seed: int,
    data: st.DataObject,
) -> None:
    """Cross-validation over folds is only honest if no person is in two folds; a repeated pair would count twice."""
    identities = range(first, first + folds * people_per_fold + spare_people)
    matched_pairs = people_per_fold * photos_per_identity * (photos_per_identity - 1) // 2
    mismatched_pairs = people_per_fold * (people_per_fold - 1) // 2 * photos_per_identity**2
    pairs_per_class = data.draw(st.integers(1, min(matched_pairs, mismatched_pairs)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lists" / "pairs.txt"
        write_pairs(
            path,
            identities=identities,
            photos_per_identity=photos_per_identity,
            folds=folds,
            pairs_per_class=pairs_per_class,
            seed=seed,
        )
        header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert header == [str(folds), str(pairs_per_class)]
    assert len(rows) == 2 * folds * pairs_per_class
    seen_pairs: set[frozenset[tuple[str, int]]] = set()
    fold_of: dict[str, int] = {}
    for position, row in enumerate(rows):
        fold, place = divmod(position, 2 * pairs_per_class)
        is_matched = place < pairs_per_class
        assert len(row) == (3 if is_matched else 4)
        name_a, i, name_b, j = (row[0], row[1], row[0], row[2]) if is_matched else row
        assert (name_a == name_b) == is_matched
        for name, number in ((name_a, int(i)), (name_b, int(j))):
            assert fold_of.setdefault(name, fold) == fold
            assert int(name.removeprefix("identity_")) in identities
            assert 1 <= number <= photos_per_identity
        seen_pairs.add(frozenset({(name_a, int(i)), (name_b, int(j))}))
    assert len(seen_pairs) == len(rows)


@pytest.mark.parametrize(
    ("people", "photos", "pairs"),
    [(4, 1, 1), (2, 5, 1), (4, 3, 7), (4, 2, 3), (1, 5, 1)],
    ids=["no second photo", "nobody else in the fold", "few of both", "few matched", "an empty fold"],
)
def test_too_few_photos_for_the_pairs_is_an_error(tmp_path: Path, people: int, photos: int, pairs: int) -> None:
    """Rather than repeat pairs or loop for ever, say what is missing, and write nothing."""
    path = tmp_path / "pairs.txt"
    with pytest.raises(FacegmError, match=r"pairs\.txt: .* but \d+ of each are asked for; use more identities"):
        write_pairs(path, identities=range(people), photos_per_identity=photos, folds=2, pairs_per_class=pairs, seed=0)
    assert not path.exists()


def test_one_portrait_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-image is an extra: without it the demo still draws people who differ."""
    monkeypatch.setitem(sys.modules, "skimage", None)
    base_portraits.cache_clear()
    try:
        assert len(base_portraits()) == 1
        neutral = [take_neutral_photo(draw_identity(index, seed=0)) for index in range(4)]
    finally:
        base_portraits.cache_clear()
    assert min(difference(neutral[a], neutral[b]) for a in range(4) for b in range(a)) > 5


def test_import_needs_no_torch() -> None:
    """`facegm demo` shows its help and writes photos without the seconds that torch takes to load."""
    code = "import sys, facegm.demo.photos; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
