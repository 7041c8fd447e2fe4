"""Protects what an embedding under way records: nothing torn is read, nothing whole is lost, nobody else writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegm.data.readers.photo import Photo
from facegm.embedding import face_file, face_parts
from facegm.embedding.face_file import count_faces, read_description, write_faces
from facegm.embedding.face_parts import FaceParts, remove_leftovers
from facegm.embedding.face_table import Row, missing_row, schema, to_table
from facegm.embedding.reasons import Reason
from facegm.errors import FacegmError
from facegm.eval.sets.embedding_files import read_embeddings

pytestmark = pytest.mark.usefixtures("no_disk")

DIM, GROUP = 3, 4
COLUMNS = schema(DIM, {"photos": "digest", "policy": "all"})


def rows_of(count: int) -> list[Sequence[Row]]:
    """Photos with none, one or two faces, in turn; the embeddings say of which."""
    photos: list[Sequence[Row]] = []
    for number in range(count):
        key = f"ann/{number:03}.jpg"
        photo = Photo(path=key, key=key, identity="ann")
        faces = [
            {"path": key, "identity": "ann", "face": face, "embedding": np.array([number, face, 1], np.float32)}
            for face in range(number % 3)
        ]
        photos.append(faces or [missing_row(photo, Reason.NO_FACE, "no face found")])
    return photos


def flat(photos: Sequence[Sequence[Row]]) -> pa.Table:
    return to_table([row for photo in photos for row in photo], COLUMNS)


def begun(folder: Path, photos: int = 10) -> FaceParts:
    return FaceParts(folder / "parts", COLUMNS, photos=photos, group=GROUP)


def test_what_was_recorded_is_gone_on_with_by_whole_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_parts, "PART_SECONDS", 0.0)
    photos = rows_of(10)
    with begun(tmp_path) as parts:
        assert parts.done == 0
        parts.add(photos[:3])
        parts.add(photos[3:6])  # a group and a half
    with begun(tmp_path) as parts:
        assert parts.done == GROUP
        parts.add(photos[4:])
        found = pa.concat_tables(parts.tables())
        assert found.equals(flat(photos))
        parts.remove()
    assert not (tmp_path / "parts").exists()


def test_without_time_for_a_part_the_end_records_all(tmp_path: Path) -> None:
    with begun(tmp_path) as parts:
        parts.add(rows_of(9))
        assert not [*(tmp_path / "parts").glob("*.parquet")]
    with begun(tmp_path) as parts:
        assert parts.done == 8


@pytest.mark.parametrize("harm", ["cut", "lost", "renamed"])
def test_from_a_damaged_part_on_all_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.setattr(face_parts, "PART_SECONDS", 0.0)
    photos = rows_of(12)
    with begun(tmp_path, 12) as parts:
        for start in range(0, 12, GROUP):
            parts.add(photos[start : start + GROUP])
    second = sorted((tmp_path / "parts").glob("*.parquet"))[1]
    if harm == "cut":
        second.write_bytes(second.read_bytes()[:-9])
    elif harm == "lost":
        second.unlink()
    else:
        second.rename(second.with_name("notes.parquet"))
    with begun(tmp_path, 12) as parts:
        assert parts.done == GROUP
        parts.add(photos[GROUP:])
        assert pa.concat_tables(parts.tables()).equals(flat(photos))


def test_damage_within_a_part_is_named(tmp_path: Path) -> None:
    with begun(tmp_path, 8) as parts:
        parts.add(rows_of(8))
    [part] = (tmp_path / "parts").glob("*.parquet")
    data = bytearray(part.read_bytes())
    data[60] ^= 1
    part.write_bytes(data)
    with begun(tmp_path, 8) as parts, pytest.raises(FacegmError, match=rf"{part}: damaged"):
        list(parts.tables())


def test_no_table_is_made_of_some_of_the_photos(tmp_path: Path) -> None:
    with begun(tmp_path) as parts:
        parts.add(rows_of(7))
        with pytest.raises(FacegmError, match="6 photos lack"):
            list(parts.tables())


def test_another_embedding_and_another_process_are_refused(tmp_path: Path) -> None:
    with begun(tmp_path):
        with pytest.raises(FacegmError, match="another `facegm embed` is at work"):
            begun(tmp_path)
        assert json.loads((tmp_path / "parts/job.json").read_text()) == {"photos": "digest", "policy": "all"}
    other = schema(DIM, {"photos": "digest", "policy": "only"})
    with pytest.raises(FacegmError, match="was of other policy; do as then, or delete the folder"):
        FaceParts(tmp_path / "parts", other, photos=10, group=GROUP)
    with begun(tmp_path):
        pass  # the refusal holds no lock


def test_leftovers_are_removed_but_not_those_of_another_embedding_or_in_use(tmp_path: Path) -> None:
    """Protects hours of work beside an output that is whole; and it is no failure that there is nothing."""
    folder = tmp_path / "parts"
    remove_leftovers(folder, COLUMNS)
    with begun(tmp_path, 8) as parts:
        parts.add(rows_of(8))
        remove_leftovers(folder, COLUMNS)
    held = sorted(path.name for path in folder.iterdir())
    assert held == ["000000000-000000008.parquet", "job.json"]
    remove_leftovers(folder, schema(DIM, {"photos": "digest", "policy": "only"}))
    assert sorted(path.name for path in folder.iterdir()) == held
    (folder / ".000000008-000000009.parquet.partial").touch()  # of a kill
    remove_leftovers(folder, COLUMNS)
    assert not folder.exists()


def test_a_folder_of_something_else_is_neither_used_nor_removed(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "000000000-000000008.parquet").write_text("my own")
    with pytest.raises(FacegmError, match=r"holds no job\.json, so that it is no folder of `facegm embed`"):
        begun(tmp_path)
    remove_leftovers(folder, COLUMNS)
    assert [path.name for path in folder.iterdir()] == ["000000000-000000008.parquet"]


def test_what_a_kill_leaves_of_the_making_of_the_job_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/.job.json.host.1.partial").touch()
    with begun(tmp_path, 0) as parts:
        parts.remove()
    assert not (tmp_path / "parts").exists()


def test_a_file_of_something_else_among_the_parts_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with begun(tmp_path):
        (tmp_path / "parts/notes.parquet").write_text("my own")
    with begun(tmp_path, 0) as parts:
        parts.remove()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["notes.parquet"]
    assert "holds files that are not of this embedding" in caplog.text


def test_a_failure_to_look_at_the_parts_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> bool:
        raise OSError("no such disk")

    with begun(tmp_path, 8) as parts:
        parts.add(rows_of(8))
    with monkeypatch.context() as patch:
        patch.setattr(face_parts, "_is_whole", broken)
        with pytest.raises(OSError, match="no such disk") as raised:  # which the traceback keeps the frames of
            begun(tmp_path, 8)
    with begun(tmp_path, 8) as parts:
        assert parts.done == 8
    assert raised


@pytest.mark.parametrize("suffix", face_file.SUFFIXES)
def test_a_file_follows_from_its_rows_however_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(face_file, "ROWS", 5)
    photos = rows_of(23)
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    write_faces(one, COLUMNS, [flat(photos)])
    write_faces(other, COLUMNS, [flat(photos[start : start + 2]) for start in range(0, 23, 2)])
    assert one.read_bytes() == other.read_bytes()
    assert read_description(one) == {"photos": "digest", "policy": "all"}
    counts = count_faces(one)
    assert (counts.faces, dict(counts.reasons)) == (22, {"no-face": 8})
    if suffix == ".parquet":
        file = pq.ParquetFile(one)
        assert file.read().equals(flat(photos))
        assert [file.metadata.row_group(group).num_rows for group in range(3)] == [5, 5, 5]
    else:
        with np.load(one) as arrays:
            assert arrays["embeddings"].tolist() == [[n, f, 1] for n in range(23) for f in range(n % 3)]
            assert arrays["paths"].tolist() == [f"ann/{n:03}.jpg" for n in range(23) for _ in range(n % 3)]
            assert arrays["missing_paths"].tolist() == [f"ann/{n:03}.jpg" for n in range(0, 23, 3)]


@pytest.mark.parametrize("suffix", face_file.SUFFIXES)
def test_verification_reads_the_subjects_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    write_faces(path, COLUMNS, [flat(rows_of(9))])
    named = read_embeddings(path)
    subjects = [number for number in range(9) if number % 3]
    assert list(named.names) == [f"ann/{number:03}.jpg" for number in subjects]
    assert named.embeddings.tolist() == [[number, 0, 1] for number in subjects]
    assert named.embeddings.dtype == np.float32


@pytest.mark.parametrize("suffix", face_file.SUFFIXES)
def test_no_face_at_all_is_a_file_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    write_faces(path, COLUMNS, [flat(rows_of(1))])
    assert count_faces(path) == (0, {"no-face": 1})


@pytest.mark.parametrize("name", ["a.parquet", "a.npz"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("my notes")
    with pytest.raises(FacegmError, match="is no file that `facegm embed` made; give another --output"):
        read_description(tmp_path / name)
