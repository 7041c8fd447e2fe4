"""Protects a store in the making: interrupted anywhere it ends as if undisturbed, and it follows its photos."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_runs import (
    ODD_NAMES,
    StoppedError,
    bring_up_to_date,
    faces_expected,
    faces_of,
    killed_at_step,
    make_photos,
    photos_in,
    plain_names,
    row_of,
)
from stores import contents

from facegm.store.format import MANIFEST_FILE, SETTINGS_FILE
from facegm.store.reader import FaceStore

pytestmark = [
    pytest.mark.usefixtures("no_disk"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
both = pytest.mark.parametrize("container", ["folder", "tar"])
JOURNAL = "journal.jsonl"
TAR = "faces/00000.tar"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", [*plain_names(18), *ODD_NAMES])


# ------------------------------------------------------------------------------------------------- undisturbed


@both
@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_a_store_holds_a_row_for_each_photo_and_the_faces(
    tmp_path: Path, photos: Path, container: str, encoding: Any
) -> None:
    store = tmp_path / "store"
    run = bring_up_to_date(store, photos, container, encoding=encoding)
    keys = [photo.key for photo in photos_in(photos)]
    assert run.looked_at == [*FaceStore(store).keys] == keys
    assert run.statuses == {"aligned": 19, "failed": 3, "failed: no face found": 3}
    suffix, files = {"png": ".png", "jpeg": ".jpg"}[encoding], {SETTINGS_FILE, MANIFEST_FILE}
    faces = {key: face for key, face in faces_of(store).items() if face}
    assert {*contents(store)} == files | ({TAR} if container == "tar" else {f"faces/{key}{suffix}" for key in faces})
    if encoding == "png":
        assert faces_of(store) == faces_expected(photos)


@both
def test_a_store_in_step_is_left_as_it_is(tmp_path: Path, photos: Path, container: str) -> None:
    bring_up_to_date(tmp_path / "store", photos, container)
    expected = contents(tmp_path / "store")
    assert bring_up_to_date(tmp_path / "store", photos, container)[:2] == ([], {})
    assert contents(tmp_path / "store") == expected


@both
def test_the_disk_holds_faces_before_the_manifest_says_so_and_the_manifest_before_journals_go(
    tmp_path: Path, photos: Path, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects against power cuts, which take any writes since the last call of `sync`."""
    seen: list[set[str]] = []
    monkeypatch.setattr(os, "sync", lambda: seen.append({*contents(tmp_path / "store")}))
    bring_up_to_date(tmp_path / "store", photos, container)
    whole = {*contents(tmp_path / "store")}
    assert seen == [whole - {MANIFEST_FILE} | {JOURNAL}, whole | {JOURNAL}]


# ------------------------------------------------------------------------------------------------- kills


@both
@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_interrupted_between_batches_what_is_done_is_not_done_again(
    tmp_path: Path, photos: Path, container: str, batches: int
) -> None:
    bring_up_to_date(tmp_path / "whole", photos, container)
    keys = [photo.key for photo in photos_in(photos)]
    with pytest.raises(StoppedError):
        bring_up_to_date(tmp_path / "store", photos, container, stop_after=batches)
    assert bring_up_to_date(tmp_path / "store", photos, container).looked_at == keys[4 * batches :]
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@both
def test_killed_at_any_step_the_same_command_ends_like_an_undisturbed_run(tmp_path: Path, container: str) -> None:
    """Protects each rename, removal and half-written member, of a store that follows photos that were changed."""
    photos, before, whole, store = (tmp_path / name for name in ("photos", "before", "whole", "store"))
    names = plain_names(9)
    make_photos(photos, names)
    bring_up_to_date(before, photos, container)
    (photos / names[2]).unlink()  # its face is in the midst of a tar
    (photos / names[8]).unlink()  # and with this one a folder goes
    (photos / names[1]).write_bytes(b"changed")
    make_photos(photos, [*names[3:5], *names[6:7], "p3/new.jpg", "p3/" + "n" * 200 + ".jpg"])
    shutil.copytree(before, whole)
    bring_up_to_date(whole, photos, container)
    expected, step = contents(whole), 0
    assert faces_of(whole) == faces_expected(photos)
    while True:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(before, store)
        if not killed_at_step(step, store, lambda: bring_up_to_date(store, photos, container)):
            break
        bring_up_to_date(store, photos, container)
        assert contents(store) == expected, f"step {step}"
        step += 1
    assert step > 14


@both
def test_killed_in_the_midst_of_the_first_lines(tmp_path: Path, photos: Path, container: str) -> None:
    """Protects a new store: killed at any step until it has begun, and at any byte of its journal."""
    whole, store = tmp_path / "whole", tmp_path / "store"
    bring_up_to_date(whole, photos, container)
    for step in range(12):
        shutil.rmtree(store, ignore_errors=True)
        assert killed_at_step(step, store, lambda: bring_up_to_date(store, photos, container))
        bring_up_to_date(store, photos, container)
        assert contents(store) == contents(whole), f"step {step}"
    shutil.rmtree(store)
    with pytest.raises(StoppedError):
        bring_up_to_date(store, photos, container, stop_after=2)
    shutil.copytree(store, tmp_path / "stopped")
    journal = (store / JOURNAL).read_bytes()
    for size in range(0, len(journal) + 1, len(journal) // 15):
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "stopped", store)
        os.truncate(store / JOURNAL, size)
        bring_up_to_date(store, photos, container)
        assert contents(store) == contents(whole), f"byte {size}"


# ------------------------------------------------------------------------------------------------- power cuts


def _tear(data: st.DataObject, content: bytes, label: str) -> bytes:
    """What a power cut may leave of a file's end."""
    kept = data.draw(st.integers(0, len(content)), label=f"bytes kept of {label}")
    zeros = data.draw(st.sampled_from([0, 1, len(content) - kept]), label="zeros behind them")
    return content[:kept] + bytes(min(zeros, len(content) - kept))


@both
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_after_a_power_cut_the_same_command_ends_like_an_undisturbed_run(
    tmp_path_factory: pytest.TempPathFactory, container: str, data: st.DataObject
) -> None:
    """Protects what was not on the disk yet: of the journal and of the last faces anything may be there, or nothing."""
    base = tmp_path_factory.getbasetemp() / f"power-cut-{container}"
    photos, whole, store = base / "photos", base / "whole", base / "store"
    if not base.is_dir():
        bring_up_to_date(whole, make_photos(photos, [*plain_names(18), *ODD_NAMES]), container)
    shutil.rmtree(store, ignore_errors=True)
    for _ in range(2):
        with pytest.raises(StoppedError):
            bring_up_to_date(store, photos, container, stop_after=data.draw(st.integers(0, 1), label="batches"))
        if (journal := store / JOURNAL).exists():
            journal.write_bytes(_tear(data, journal.read_bytes(), "journal"))
        faces = sorted((path for path in (store / "faces").rglob("*") if path.is_file()), key=os.fsencode)
        for path in faces[data.draw(st.integers(0, len(faces)), label="faces kept") :] if faces else ():
            if container == "folder" and data.draw(st.booleans(), label="missing"):
                path.unlink()
            else:
                path.write_bytes(_tear(data, path.read_bytes(), path.name))
    bring_up_to_date(store, photos, container)
    assert contents(store) == contents(whole)


@pytest.mark.parametrize("key", [ODD_NAMES[2], "p0/000.jpg", "p1/004.jpg"])
def test_a_hole_in_the_midst_of_a_tar_is_made_good_at_its_end(tmp_path: Path, photos: Path, key: str) -> None:
    store = tmp_path / "store"
    bring_up_to_date(tmp_path / "whole", photos, "tar")
    place = row_of(tmp_path / "whole", key)["offset"] + 50
    with pytest.raises(StoppedError):
        bring_up_to_date(store, photos, "tar", stop_after=4)
    tar = (store / TAR).read_bytes()
    (store / TAR).write_bytes(tar[:place] + bytes(100) + tar[place + 100 :])
    assert bring_up_to_date(store, photos, "tar").changes == {"damaged": 1}
    assert faces_of(store) == faces_expected(photos)
    with tarfile.open(store / TAR, errors="surrogateescape") as archive:
        members = archive.getnames()
    assert sorted(set(members) - {".removed"}) == sorted(f"{key}.png" for key, face in faces_of(store).items() if face)
    assert bring_up_to_date(store, photos, "tar")[:2] == ([], {})


@both
@pytest.mark.parametrize("cut", ["before faces", "after faces", "before manifest", "after manifest"])
def test_writes_that_were_not_on_the_disk_when_the_power_was_cut(
    tmp_path: Path, photos: Path, container: str, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the last steps: what was synced is there, of everything else nothing."""
    whole, store = tmp_path / "whole", tmp_path / "store"
    bring_up_to_date(whole, photos, container)
    with pytest.raises(StoppedError):
        bring_up_to_date(store, photos, container, stop_after=3)
    durable, syncs = [contents(store)], 0

    def sync() -> None:
        nonlocal syncs
        syncs += 1
        if cut != f"before {('faces', 'manifest')[syncs - 1]}":
            durable.append(contents(store))
        if cut.endswith(("faces", "manifest")[syncs - 1]):
            raise StoppedError

    monkeypatch.setattr(os, "sync", sync)
    with pytest.raises(StoppedError):
        bring_up_to_date(store, photos, container)
    monkeypatch.setattr(os, "sync", lambda: None)
    shutil.rmtree(store)
    for name, content in durable[-1].items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content)
    again = bring_up_to_date(store, photos, container)
    assert len(again.looked_at) == (10 if cut == "before faces" else 0)
    assert contents(store) == contents(whole)
