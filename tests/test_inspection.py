"""Protects `facegm inspect`: its numbers equal an independent count; its page shows the right pictures."""

import base64
import io
import struct
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from manifests import Row, colour_of, digest_of, face_row, quantiles_of, write_store

from facegm.cli import main
from facegm.data.names import printable

ODD = "Ann\n</figure><script>/é.jpg"
"""A name with a line end and markup."""


def _failed(key: str, reason: str, status: str = "failed") -> Row:
    return {"key": key, "identity": key.split("/")[0], "status": status, "reason": reason, "faces": 0}


def _near(number: int) -> bytes:
    """A hash that differs in three bits from that of a number."""
    return (int.from_bytes(np.random.default_rng(number).bytes(32), "big") ^ 7).to_bytes(32, "big")


ROWS = (
    *(face_row(number, "Ann") for number in range(9)),
    *(face_row(number, "Bob") for number in range(9, 16)),
    face_row(16, "Bob", digest=digest_of(2)),  # the photo Ann/02.jpg: a label error
    face_row(17, "Bob", perceptual_hash=_near(9)),
    face_row(18, "Cleo"),
    face_row(19, "Odd", key=ODD),
    _failed("Dan/1.jpg", "no face found"),
    _failed("Dan/2.jpg", "empty file"),
    _failed("Dan/3.jpg", "not an image: \x1b[2J<b>\n"),
    _failed("Ann/crop.jpg", "no face found", "center-crop"),
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twenty faces of one colour each, and a source that still holds Dan's first photo alone."""
    return _make_store(tmp_path / "store", ROWS, source=tmp_path / "photos")


def _make_store(folder: Path, rows: Sequence[Row], *, source: Path | None = None) -> Path:
    if source is not None:
        (source / "Dan").mkdir(parents=True)
        cv2.imwrite(str(source / "Dan" / "1.jpg"), np.full((100, 300, 3), (0, 0, 200), np.uint8))
    write_store(folder, rows, {} if source is None else {"source": str(source)})
    return folder


class Page(HTMLParser):
    """The figures of each section as (key, picture, text); fails on tags that do not nest, on scripts and on links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: dict[str, str] = defaultdict(str)
        self.figures: dict[str, list[list[tuple[str, np.ndarray]]]] = defaultdict(list)
        self.section = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in {"script", "link", "a", "iframe"}
        if tag == "h2":
            self.section = ""
        if tag == "figure":
            self.figures[self.section].append([])
        if tag == "img":
            head, _, data = (given["src"] or "").partition(",")
            assert head == "data:image/jpeg;base64"
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
            assert picture is not None
            self.figures[self.section][-1].append((given["alt"] or "", picture))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.section += data
        self.text[self.section] += data

    def names(self, section: str) -> list[list[str]]:
        """Names of the pictures of each figure."""
        return [[name for name, _ in figure] for figure in self.figures[section]]


def _inspect(store: Path, *options: str) -> Page:
    assert main(["inspect", str(store), *options]) == 0
    return Page(store.with_name(store.name + ".html"))


# --------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_those_of_an_independent_count(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = _inspect(store)
    lines = capsys.readouterr().out.splitlines()
    usable = Counter(row["identity"] for row in ROWS if row["status"] != "failed")
    counts = sorted([*usable.values(), 0])  # Dan has none
    assert counts == [0, 1, 1, 9, 10]
    assert lines[0] == f"{store}: 20 faces aligned, 1 centre crops, 3 failed"
    assert lines[1:4] == [
        "  1 failed: no face found",
        "  1 failed: empty file",
        r"  1 failed: not an image: \x1b[2J<b>\n",
    ]
    assert lines[4] == "5 identities, 3 of them with fewer than 2 usable photos"
    assert lines[5] == "usable photos of an identity: at least 0, quartiles 1, 1, 9, at most 10 (Ann)"
    assert lines[6] == "several faces found in 5 photos"
    rows = {line[:11].strip(): line[11:].split() for line in lines[8:14]}
    aligned = [row for row in ROWS if row["status"] == "aligned"]
    measures = ("residual", "profile", "sharpness", "contrast", "probability")
    values = {name: [row[name] for row in aligned] for name in measures}
    values["face size"] = [float(min(40 + number, 60)) for number in range(20)]
    assert list(rows) == list(values)
    for name, numbers in values.items():
        expected = quantiles_of(numbers)
        assert [float(cell) for cell in rows[name]] == pytest.approx(expected, rel=1e-3)
    assert lines[14:] == [
        "exact duplicates: 1 group, 2 photos",
        "  one photo under several identities, a label error: 1 group",
        "    Ann/02.jpg = Bob/16.jpg",
        "  within an identity: 0 groups",
        "near-duplicates within an identity: 1 group, 2 photos",
        "    Bob/09.jpg = Bob/17.jpg",
        f"contact sheet: {store}.html",
    ]
    assert all(line in page.text[""] for line in lines[:-1])


def test_a_store_without_measurements_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"key": "Ann/a.jpg", "identity": "Ann", "status": "aligned", "box": [0, 0, 30, 40], "faces": 1}
    page = _inspect(_make_store(tmp_path / "old", (old,)))
    printed = capsys.readouterr().out
    assert "exact duplicates: not known, this store has no digests" in printed
    assert "near-duplicates within an identity: not known, this store has no perceptual hashes" in printed
    assert "residual" not in printed
    assert "face size" in printed
    for section in ("Worst alignment", "Most turned", "Blurriest", "Lowest contrast", "Exact duplicates"):
        assert "Not recorded in this store." in page.text[section]
    assert page.names("Random faces") == [["Ann/a.jpg"]]


def test_an_empty_store_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = _inspect(_make_store(tmp_path / "new", ()))
    assert "no photos" in capsys.readouterr().out
    assert not any(page.figures.values())


# ---------------------------------------------------------------------------------------------------- the page


def test_each_section_shows_what_its_title_says_with_its_picture(store: Path) -> None:
    page = _inspect(store, "--samples", "3")
    numbers = {printable(str(row["key"])): number for number, row in enumerate(ROWS)}
    faces = [row for row in ROWS if row["status"] == "aligned"]
    for section, name, sign in (
        ("Worst alignment", "residual", -1),
        ("Most turned", "profile", -1),
        ("Blurriest", "sharpness", 1),
        ("Lowest contrast", "contrast", 1),
    ):
        expected = sorted(faces, key=lambda row: sign * row[name])[:3]
        assert page.names(section) == [[printable(str(row["key"]))] for row in expected]
        assert f"{name} {expected[0][name]:.4g}" in page.text[section]
    assert page.names("Exact duplicates") == [["Ann/02.jpg", "Bob/16.jpg"]]
    assert "a label is wrong" in page.text["Exact duplicates"]
    assert page.names("Near-duplicates") == [["Bob/09.jpg", "Bob/17.jpg"]]
    assert len(page.names("Random faces")) == 3
    for section, figures in page.figures.items():
        for name, picture in (photo for figure in figures for photo in figure):
            if section != "Photos without a found face":
                assert abs(picture.mean((0, 1)) - colour_of(numbers[name])).max() < 5, name


def test_label_errors_are_shown_before_larger_groups_that_are_none(tmp_path: Path) -> None:
    within = tuple(face_row(number, "Ann", digest=digest_of(1)) for number in range(10))
    crossing = tuple(face_row(number, f"Bob {number}", digest=digest_of(2)) for number in (10, 11))
    page = _inspect(_make_store(tmp_path / "store", within + crossing))
    assert page.names("Exact duplicates") == [[row["key"] for row in group] for group in (crossing, within[:8])]
    assert "and 2 more" in page.text["Exact duplicates"]


def test_failures_show_the_photo_where_it_still_is_and_their_reason_always(store: Path) -> None:
    page = _inspect(store)
    section = "Photos without a found face"
    ((name, picture),) = [photo for figure in page.figures[section] for photo in figure]
    assert (name, picture.shape) == ("Dan/1.jpg", (43, 128, 3))
    assert abs(picture.mean((0, 1)) - (200, 0, 0)).max() < 5
    assert len(page.figures[section]) == 4
    for text in (
        "failed: no face found",
        "failed: empty file: now: No such file or directory",
        r"failed: not an image: \x1b[2J<b>\n",
        "center-crop: no face found",
    ):
        assert text in page.text[section]


def _from(store: Path, source: Path, key: str) -> Page:
    """The page of a store whose source lies elsewhere and holds a failed photo under this key."""
    write_store(store, [*ROWS, _failed(key, "no face found")], {"source": str(source)})
    return _inspect(store)


def test_photos_of_a_list_are_found_through_it(store: Path, tmp_path: Path) -> None:
    listing = tmp_path / "photos" / "list.txt"
    listing.write_text(f"{tmp_path}/photos/Dan/1.jpg\tDan\n")
    key = f"{tmp_path}/photos/Dan/1.jpg".lstrip("/")
    page = _from(store, listing, key)
    assert [name for figure in page.names("Photos without a found face") for name in figure] == [key]
    assert "no longer in the source" in page.text["Photos without a found face"]


def _tar(path: Path, name: str, data: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["tar", "folder of tar files", "rec"])
def test_photos_in_tar_and_record_files_are_found_in_them(store: Path, tmp_path: Path, kind: str) -> None:
    photo = (tmp_path / "photos" / "Dan" / "1.jpg").read_bytes()
    source, key = tmp_path / "packed", "shards/000/Dan/1.jpg"
    (source / "shards").mkdir(parents=True)
    if kind == "rec":
        source, key = source / "train.rec", "0000007/000000003.jpg"
        record = struct.pack("<IfQQ", 0, 7, 3, 0) + photo
        source.write_bytes(struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4))
        source.with_suffix(".idx").write_text("3\t0\n")
    else:
        _tar(source / "shards" / "000.tar", "Dan/1.jpg", photo)
        if kind == "tar":
            source, key = source / "shards" / "000.tar", "000/Dan/1.jpg"

    page = _from(store, source, key)

    section = "Photos without a found face"
    ((name, picture),) = [photo for figure in page.figures[section] for photo in figure]
    assert (name, picture.shape) == (key, (43, 128, 3))
    assert abs(picture.mean((0, 1)) - (200, 0, 0)).max() < 5
    assert "no longer in the source" in page.text[section]  # Dan's other photos


def test_a_source_that_is_gone_or_damaged_does_not_keep_the_page_from_being_made(store: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.rec").write_bytes(b"x")
    for source in (tmp_path / "gone", tmp_path / "damaged.rec"):
        assert (
            "no longer in the source"
            in _from(store, source, f"{source.name}/1.jpg").text["Photos without a found face"]
        )


def test_a_tree_of_photos_is_not_listed_for_a_few_of_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "Ann").mkdir()

    def fail(source: Path) -> None:
        pytest.fail(f"{source} was listed")

    monkeypatch.setattr("facegm.align.source_photos.find_photos", fail)
    _inspect(store)


def test_a_rare_failure_is_seen_beside_thousands_of_a_common_one(tmp_path: Path) -> None:
    common = tuple(_failed(f"Dan/{number}.jpg", "no face found") for number in range(3000))
    page = _inspect(_make_store(tmp_path / "store", (*common, _failed("Dan/odd.gif", "rare"))), "--samples", "2")
    assert len(page.figures["Photos without a found face"]) == 2
    assert "rare" in page.text["Photos without a found face"]
    assert "2 of 3,001" in page.text["Photos without a found face"]


def test_odd_names_are_shown_escaped(store: Path) -> None:
    shown = r"Ann\n</figure><script>/é.jpg"
    assert [shown] in _inspect(store).names("Random faces")


def test_the_same_store_gives_the_same_page_and_keeps_to_its_own_files(store: Path) -> None:
    before = sorted(store.rglob("*"))
    _inspect(store, "--samples", "5")
    page = store.with_name("store.html").read_bytes()
    _inspect(store, "--samples", "5")
    assert store.with_name("store.html").read_bytes() == page
    assert sorted(store.rglob("*")) == before


def test_the_page_goes_where_it_is_told(store: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(store), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert Page(tmp_path / "new" / "page.html").names("Random faces")
    assert not store.with_name("store.html").exists()


def test_only_what_is_shown_is_read(store: Path) -> None:
    for section in _inspect(store, "--samples", "1").figures.values():
        assert len(section) <= 1
    shown = {name for figures in _inspect(store, "--samples", "1").figures.values() for f in figures for name, _ in f}
    for row in ROWS:
        if row["status"] != "failed" and printable(str(row["key"])) not in shown:
            (store / "faces" / f"{row['key']}.png").unlink()
    _inspect(store, "--samples", "1")


def test_a_missing_face_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "faces" / "Ann" / "02.jpg.png").unlink()
    assert main(["inspect", str(store)]) == 1
    assert "02.jpg.png: missing or damaged face" in capsys.readouterr().err
    assert not store.with_name("store.html").exists()
