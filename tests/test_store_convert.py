"""Protects stores of format 1: read as they are, brought up to date by one command, gone on with; no face is lost.

The old layout is written here: `manifest.jsonl`, `timings.csv`, faces as files or in tar files with an index `.idx`,
and manifests of jobs in `shards/`.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from store_runs import (
    NO_FACE,
    ODD_NAMES,
    SIZE,
    UNREADABLE,
    bring_up_to_date,
    face_of,
    faces_expected,
    faces_of,
    killed_at_step,
    make_photos,
    photos_in,
    plain_names,
)
from stores import contents

from facegm.cli import main
from facegm.data.preprocessing import Preprocessing
from facegm.errors import FacegmError
from facegm.faces.samples import LabelledFaces
from facegm.store.convert import convert_store
from facegm.store.format import SCHEMA, encode_face
from facegm.store.reader import FaceStore

pytestmark = pytest.mark.usefixtures("no_disk")
layouts = pytest.mark.parametrize(
    ("container", "jobs"), [("folder", 0), ("tar", 0), ("folder", 2), ("tar", 3)], ids=str
)
STAMPS = {"photo_bytes", "photo_modified_ns"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    photos = make_photos(tmp_path / "photos", [*plain_names(14), *ODD_NAMES])
    (photos / "p0/003.jpg").write_bytes(UNREADABLE)
    return photos


def _record(key: str, identity: str, content: bytes) -> dict[str, Any]:
    known = {"key": key, "identity": identity}
    if content == UNREADABLE:
        return known | {"status": "failed", "reason": "cannot be read"}
    known["digest"] = hashlib.sha256(content).hexdigest()
    if content == NO_FACE:
        return known | {"status": "failed", "reason": "no face found", "faces": 0}
    box = {"box": [1.0, 2.5, 3.0, 4.0], "landmarks": [[1.0, 2.0]] * 5, "faces": 1}
    return known | {"status": "aligned", "perceptual_hash": "ab" * 32, **box}


def _write_old_store(store: Path, photos: Path, container: str, jobs: int, *, merged: bool = True) -> Path:
    """A store of format 1 of the photos in a folder, made by one job or several."""
    store.mkdir()
    settings = {"format": 1, "source": "photos", "size": SIZE, "encoding": "png", "container": container}
    (store / "store.json").write_text(json.dumps(settings, indent=2) + "\n")
    (store / "faces").mkdir()
    records = [_record(p.key, str(p.identity), Path(p.path).read_bytes()) for p in photos_in(photos)]
    faces = {
        record["key"]: encode_face(face_of((photos / record["key"]).read_bytes()))
        for record in records
        if record["status"] != "failed"
    }
    shares: Mapping[str, Sequence[dict[str, Any]]] = {
        f"{job:05}": records[job :: jobs or 1] for job in range(jobs or 1)
    }
    for part, share in shares.items():
        kept = {record["key"]: faces[record["key"]] for record in share if record["key"] in faces}
        if container == "tar":
            _pack(store / "faces" / part, kept)
        else:
            for key, face in kept.items():
                path = store / f"faces/{key}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(face)
        if jobs:
            (store / "shards").mkdir(exist_ok=True)
            (store / "shards/.lock").touch()
            _write_lines(store / f"shards/{part}-of-{jobs:05}.jsonl", share)
            (store / f"shards/{part}-of-{jobs:05}.timings.csv").write_text("key,decode,detect,rest\n")
    if merged:
        _write_lines(store / "manifest.jsonl", records)
        (store / "timings.csv").write_text("key,decode,detect,rest\n")
    return store


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows), encoding="ascii")


def _pack(path: Path, faces: dict[str, bytes]) -> None:
    with tarfile.open(f"{path}.tar", "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for key, face in faces.items():
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(face)
            tar.addfile(member, io.BytesIO(face))
    with tarfile.open(f"{path}.tar", encoding="utf-8", errors="surrogateescape") as tar:
        places = [{"key": m.name.removesuffix(".png"), "offset": m.offset_data, "length": m.size} for m in tar]
    _write_lines(path.with_suffix(".idx"), places)


def _fingerprint(store: Path) -> tuple[str, tuple[str, ...], list[int]]:
    faces = LabelledFaces(FaceStore(store), Preprocessing())
    return faces.fingerprint, faces.identities, faces.labels.tolist()


# ------------------------------------------------------------------------------------------------- as they are


@layouts
def test_a_store_of_format_1_is_read_as_it_is(tmp_path: Path, photos: Path, container: str, jobs: int) -> None:
    store = _write_old_store(tmp_path / "store", photos, container, jobs)
    before = contents(store)
    assert faces_of(store) == faces_expected(photos)
    bring_up_to_date(tmp_path / "new", photos, container)
    assert _fingerprint(store) == _fingerprint(tmp_path / "new")
    table = FaceStore(store).table(["status", "key"])
    assert table.column_names == ["status", "key"]
    assert contents(store) == before


def test_a_damaged_face_of_format_1_is_named(tmp_path: Path, photos: Path) -> None:
    store = _write_old_store(tmp_path / "store", photos, "folder", 0)
    os.truncate(store / "faces/p0/001.jpg.png", 100)
    with pytest.raises(FacegmError, match=r"faces/p0/001\.jpg\.png: missing or damaged"):
        faces_of(store)


def test_the_oldest_stores_do_not_say_how_they_are_kept(tmp_path: Path, photos: Path) -> None:
    store = _write_old_store(tmp_path / "store", photos, "folder", 0)
    (store / "store.json").write_text(json.dumps({"format": 1, "source": "photos", "size": SIZE}))
    assert faces_of(store) == faces_expected(photos)
    assert convert_store(store) == 0
    assert bring_up_to_date(store, photos).looked_at == ["p0/003.jpg"]


def test_jobs_that_are_not_at_their_end_are_said(tmp_path: Path, photos: Path) -> None:
    store = _write_old_store(tmp_path / "store", photos, "tar", 2, merged=False)
    with pytest.raises(FacegmError, match="not all jobs that made this store were at their end; run `facegm convert"):
        _ = FaceStore(store).keys


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b"3", b'{"identity":"i"}', b'{"key":3}', b"\xff\xfe", b'{"key":"k","identity":"i"}'),
        b'{"key":"k","identity":"i","status":"failed","faces":"x"}',
        b'{"key":"k","identity":"i","status":"failed","digest":"xyz"}',
    ],
)
def test_a_damaged_line_is_named_and_the_store_left_alone(tmp_path: Path, photos: Path, line: bytes) -> None:
    store = _write_old_store(tmp_path / "store", photos, "folder", 0)
    with (store / "manifest.jsonl").open("ab") as lines:
        lines.write(line + b"\n")
    before = contents(store)
    for use in (lambda: convert_store(store), lambda: FaceStore(store).table()):
        with pytest.raises(FacegmError, match=r"manifest\.jsonl.*damaged"):
            use()
    assert contents(store) == before


def test_a_line_that_an_interruption_has_torn_does_not_count(tmp_path: Path, photos: Path) -> None:
    store = _write_old_store(tmp_path / "store", photos, "folder", 0)
    manifest = (store / "manifest.jsonl").read_bytes()
    (store / "manifest.jsonl").write_bytes(manifest[:-20])
    assert len(FaceStore(store).keys) == len(photos_in(photos)) - 1
    convert_store(store)
    assert bring_up_to_date(store, photos).looked_at == ["p0/003.jpg", photos_in(photos)[-1].key]
    assert faces_of(store) == faces_expected(photos)


# ------------------------------------------------------------------------------------------------- converted


@layouts
@pytest.mark.parametrize("merged", [True, False])
def test_a_converted_store_is_that_of_today(
    tmp_path: Path,
    photos: Path,
    container: str,
    jobs: int,
    merged: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = _write_old_store(tmp_path / "store", photos, container, jobs, merged=merged or not jobs)
    before = _fingerprint(store) if merged or not jobs else None
    assert main(["convert", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}: {len(photos_in(photos))} photos, in today's format\n"
    assert {path.name for path in store.iterdir()} == {"store.json", "manifest.parquet", "faces"}
    assert not list(store.rglob("*.idx"))
    assert faces_of(store) == faces_expected(photos)
    new = tmp_path / "new"
    bring_up_to_date(new, photos, container)
    assert _fingerprint(store) == _fingerprint(new) == (before or _fingerprint(new))
    tables = [
        FaceStore(folder).table([name for name in SCHEMA.names if name not in {*STAMPS, "part", "offset"}]).to_pylist()
        for folder in (store, new)
    ]
    assert tables[0] == tables[1]
    converted = contents(store)
    assert main(["convert", str(store)]) == 0  # one that is up to date is left as it is
    assert contents(store) == converted


@layouts
def test_a_converted_store_is_gone_on_with_and_nothing_aligned_anew(
    tmp_path: Path, photos: Path, container: str, jobs: int
) -> None:
    store = _write_old_store(tmp_path / "store", photos, container, jobs)
    with pytest.raises(FacegmError, match=r"made by a version before; bring it up to date by `facegm convert .*store`"):
        bring_up_to_date(store, photos, container)
    convert_store(store)
    assert bring_up_to_date(store, photos, container)[:2] == (["p0/003.jpg"], {})
    table = FaceStore(store).table(["status", "photo_bytes"])
    assert None not in table["photo_bytes"].to_pylist()  # so that the photos are not read again next time
    (photos / "p1/006.jpg").unlink()
    (photos / "p2/008.jpg").write_bytes(b"changed")
    make_photos(photos, ["new/1.jpg"])
    run = bring_up_to_date(store, photos, container)
    assert (sorted(run.looked_at), run.changes) == (
        ["new/1.jpg", "p0/003.jpg", "p2/008.jpg"],
        {"gone": 1, "changed": 1},
    )
    assert faces_of(store) == faces_expected(photos)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@layouts
def test_a_conversion_killed_at_any_step_can_be_called_again(
    tmp_path: Path, photos: Path, container: str, jobs: int
) -> None:
    before = _write_old_store(tmp_path / "before", photos, container, jobs)
    whole, store = tmp_path / "whole", tmp_path / "store"
    shutil.copytree(before, whole)
    convert_store(whole)
    step = 0
    while True:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(before, store)
        if not killed_at_step(step, store, lambda: convert_store(store)):
            break
        assert faces_of(store) == faces_expected(photos), f"step {step}"  # it is a store all the time
        convert_store(store)
        assert contents(store) == contents(whole), f"step {step}"
        step += 1
    assert step >= 6


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_faces_that_are_missing_or_damaged_are_dropped_and_made_anew(
    tmp_path: Path, photos: Path, container: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects from taking the checksum of a damaged face for that of a whole one, which would be damaged for ever."""
    store, keys = _write_old_store(tmp_path / "store", photos, container, 0), ["p1/004.jpg", "p1/006.jpg", "p3/013.jpg"]
    cut, zeroed, missing = keys
    if container == "folder":
        os.truncate(store / f"faces/{cut}.png", 150)
        (store / f"faces/{zeroed}.png").write_bytes(bytes(200))
        (store / f"faces/{missing}.png").unlink()
    else:
        index = [json.loads(line) for line in (store / "faces/00000.idx").read_text().splitlines()]
        at = {entry["key"]: entry for entry in index}
        tar = bytearray((store / "faces/00000.tar").read_bytes())
        for key in (cut, zeroed):
            place = at[key]["offset"]
            tar[place + 100 : place + at[key]["length"]] = bytes(at[key]["length"] - 100)
        (store / "faces/00000.tar").write_bytes(tar)
        _write_lines(store / "faces/00000.idx", [entry for entry in index if entry["key"] != missing])
    assert main(["convert", str(store)]) == 0
    expected = "15 photos, in today's format; 3 more had lost their face, which `facegm align` makes anew\n"
    assert capsys.readouterr().out.endswith(expected)
    assert not {*keys} & {*FaceStore(store).keys}
    assert bring_up_to_date(store, photos, container).looked_at == ["p0/003.jpg", *keys]
    assert faces_of(store) == faces_expected(photos)


def test_a_folder_that_is_no_store_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path)]) == 1
    assert "not a store of aligned faces" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_align_refuses_a_store_of_format_1_with_the_command_that_helps(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = _write_old_store(tmp_path / "store", photos, "folder", 0)
    before = contents(store)
    assert main(["align", str(photos), "--output", str(store), "--workers=1"]) == 1
    assert f"bring it up to date by `facegm convert {store}`" in capsys.readouterr().err
    assert contents(store) == before
