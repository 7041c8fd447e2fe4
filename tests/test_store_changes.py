"""Protects what a store holds when its photos or faces are others than before: it follows them."""

import os
from pathlib import Path

import pytest
from store_runs import (
    ODD_NAMES,
    UNREADABLE,
    bring_up_to_date,
    faces_expected,
    faces_of,
    make_photos,
    photos_in,
    plain_names,
    row_of,
)
from stores import contents

from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError
from facegm.store.reader import FaceStore

pytestmark = pytest.mark.usefixtures("no_disk")
both = pytest.mark.parametrize("container", ["folder", "tar"])
TAR = "faces/00000.tar"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", [*plain_names(18), *ODD_NAMES])


def _damage(store: Path, container: str, key: str, how: str) -> None:
    path, row = store / f"faces/{key}.png", row_of(store, key)
    if container == "tar":
        path = store / TAR
    start = row["offset"]
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, start + row["length"] // 2)
    elif how == "zeroed":
        path.write_bytes(content[:start] + bytes(row["length"]) + content[start + row["length"] :])
    else:
        assert how == "one bit"
        place = start + row["length"] // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@both
@pytest.mark.parametrize("how", ["deleted", "truncated", "zeroed", "one bit"])
def test_a_damaged_face_is_made_anew(tmp_path: Path, photos: Path, container: str, how: str) -> None:
    store = tmp_path / "store"
    bring_up_to_date(store, photos, container)
    last, expected = "p4/017.jpg", faces_of(store)
    _damage(store, container, last, how)
    with pytest.raises(FacegmError, match="damaged"):
        faces_of(store)
    run = bring_up_to_date(store, photos, container)
    if container == "folder" or how != "deleted":
        assert run[:2] == ([last], {"damaged": 1})
    assert faces_of(store) == expected
    assert bring_up_to_date(store, photos, container)[:2] == ([], {})


@both
def test_a_photo_that_is_removed_takes_its_face_along(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects who asks not to be trained on: neither row nor face are left, in whatever container."""
    store = tmp_path / "store"
    bring_up_to_date(store, photos, container)
    gone = [ODD_NAMES[0], "p0/002.jpg", "p4/016.jpg", "p4/017.jpg"]
    rows = [row_of(store, key) for key in gone]
    pictures = {
        key: (store / (TAR if container == "tar" else f"faces/{key}.png")).read_bytes()[row["offset"] :][
            : row["length"]
        ]
        for key, row in zip(gone, rows, strict=True)
    }
    for key in gone:
        (photos / key).unlink()
    run = bring_up_to_date(store, photos, container)
    assert run[:2] == ([], {"gone": 4})
    assert run.statuses["aligned"] == 15
    assert faces_of(store) == faces_expected(photos)
    left = contents(store)
    assert not any(picture in content for picture in pictures.values() for content in left.values())
    assert not {f"faces/{key}.png" for key in gone} & {*left}
    assert not (store / "faces/p4").exists()  # the folder of an identity that is gone
    assert bring_up_to_date(store, photos, container)[:2] == ([], {})
    assert contents(store) == left


@both
def test_a_photo_that_is_changed_is_aligned_anew_and_a_touched_one_is_not(
    tmp_path: Path, photos: Path, container: str
) -> None:
    store, touched, changed, emptied = tmp_path / "store", "p0/001.jpg", "p1/004.jpg", "p2/008.jpg"
    bring_up_to_date(store, photos, container)
    content = (photos / changed).read_bytes()
    (photos / changed).write_bytes(content[::-1])  # as long as before
    (photos / emptied).write_bytes(UNREADABLE)
    os.utime(photos / touched, ns=(5, 5))
    run = bring_up_to_date(store, photos, container)
    assert run[:2] == ([changed, emptied], {"changed": 2})
    assert run.statuses["failed: cannot be read"] == 1
    assert faces_of(store) == faces_expected(photos)
    assert row_of(store, touched)["photo_modified_ns"] == 5  # it is not read again next time
    assert not (store / f"faces/{emptied}.png").exists()
    # One that cannot be read is tried again, also when nothing about it has changed.
    assert bring_up_to_date(store, photos, container)[:2] == ([emptied], {})
    (photos / emptied).write_bytes(b"mended")
    assert bring_up_to_date(store, photos, container).looked_at == [emptied]
    assert faces_of(store) == faces_expected(photos)


def test_a_touched_photo_is_told_by_its_digest_alone(tmp_path: Path, photos: Path) -> None:
    """Protects a copy of a data set, all files of which are new: it is read once, and nothing is aligned."""
    bring_up_to_date(tmp_path / "store", photos)
    for photo in photos_in(photos):
        os.utime(photo.path, ns=(7, 7))
    assert bring_up_to_date(tmp_path / "store", photos)[:2] == ([], {})
    stamps = FaceStore(tmp_path / "store").table(["photo_modified_ns"])["photo_modified_ns"].to_pylist()
    assert {*stamps} == {7}


def test_identities_follow_the_source(tmp_path: Path, photos: Path) -> None:
    """Protects other labels of the same photos, as by `--identity-level`: nothing is aligned anew."""
    bring_up_to_date(tmp_path / "store", photos)
    known = photos_in(photos)
    others = [Photo(path=p.path, key=p.key, identity=None if n % 2 else "new\udcff") for n, p in enumerate(known)]
    assert bring_up_to_date(tmp_path / "store", others)[:2] == ([], {})
    identities = FaceStore(tmp_path / "store").table(["identity"])["identity"].to_pylist()
    assert identities == [None if number % 2 else "new\\xff" for number in range(len(known))]


@both
def test_a_name_too_long_for_a_file_has_room_in_a_tar(tmp_path: Path, container: str) -> None:
    source = make_photos(tmp_path / "photos", plain_names(3))
    long = Photo(path=str(source / "p0/000.jpg"), key="p0/" + "x" * 252, identity="p0")
    run = bring_up_to_date(tmp_path / "store", [*photos_in(source), long], container)
    if container == "folder":
        assert run.statuses["failed: file name too long for the store"] == 1
        row = row_of(tmp_path / "store", long.key)
        assert (row["status"], row["reason"]) == ("failed", "file name too long for the store")
    else:
        assert faces_of(tmp_path / "store")[long.key] == faces_of(tmp_path / "store")["p0/000.jpg"]


@both
@pytest.mark.parametrize("listed", [False, True])
def test_a_source_of_which_much_is_gone_looks_like_a_mistake(tmp_path: Path, container: str, listed: bool) -> None:
    """Protects faces from a disk that is not mounted: more than ten photos and a tenth go only when that is meant.

    They may be gone from the source's list, or listed and not there, as with list files.
    """
    photos, store = make_photos(tmp_path / "photos", plain_names(120)), tmp_path / "store"
    bring_up_to_date(store, photos, container)
    expected, known, faces = contents(store), photos_in(photos), faces_expected(photos)

    def take_away(count: int) -> list[Photo]:
        make_photos(photos, plain_names(120))
        for photo in known[:count]:
            Path(photo.path).unlink()
        return known if listed else known[count:]

    source = take_away(18)
    with pytest.raises(
        FacegmError, match=r"1\d of 1\d\d photos of this store are no longer in the source.*--remove-mi"
    ):
        bring_up_to_date(store, source, container)
    source = take_away(120)
    for shard in ("0/4", "3/4"):  # each looks at its own
        with pytest.raises(FacegmError, match=r"no longer in the source.*give --remove-missing"):
            bring_up_to_date(store, source, container, shard=shard)
    assert contents(store) == expected
    for count, meant in ((10, False), (60, True)):
        source, gone = take_away(count), [photo.key for photo in known[:count] if listed]
        run = bring_up_to_date(store, source, container, remove_missing=meant)
        assert run.looked_at == gone
        assert faces_of(store) == dict.fromkeys(gone) | {photo.key: faces[photo.key] for photo in known[count:]}
