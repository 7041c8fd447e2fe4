import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.errors import FacegmError
from facegm.eval.pairs import Pairs, read_pairs

TINY = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t3\nBob\t3\t11\nCy\t4\tAnn\t2\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_lines_become_names_labels_and_folds(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, TINY))
    assert pairs.names_a == ("Ann/Ann_0001.jpg", "Ann/Ann_0001.jpg", "Bob/Bob_0003.jpg", "Cy/Cy_0004.jpg")
    assert pairs.names_b == ("Ann/Ann_0002.jpg", "Bob/Bob_0003.jpg", "Bob/Bob_0011.jpg", "Ann/Ann_0002.jpg")
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert len(pairs) == 4
    assert pairs.images[:3] == ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0003.jpg")


def test_extension_is_the_callers(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path, TINY), extension=".png").names_b[3] == "Ann/Ann_0002.png"


def test_windows_line_ends_and_trailing_blank_lines_are_read(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, TINY.replace("\n", "\r\n") + "\r\n\n"))
    assert pairs.names_b[3] == "Ann/Ann_0002.jpg"


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path, "\ufeff" + TINY)).names_b[3] == "Ann/Ann_0002.jpg"


def test_names_hold_spaces_where_lines_are_split_at_tabs(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nColin Powell\t1\t2\nColin Powell\t3\tAnn\t4\n"))
    assert pairs.names_a == ("Colin Powell/Colin Powell_0001.jpg", "Colin Powell/Colin Powell_0003.jpg")
    assert pairs.names_b == ("Colin Powell/Colin Powell_0002.jpg", "Ann/Ann_0004.jpg")


def test_without_a_header_the_pairs_are_the_same_and_folds_are_assigned(tmp_path: Path) -> None:
    with_header, without = read_pairs(write(tmp_path, TINY)), read_pairs(write(tmp_path, TINY.removeprefix("2\t1\n")))
    assert (without.names_a, without.names_b) == (with_header.names_a, with_header.names_b)
    assert without.same.tolist() == with_header.same.tolist()
    assert without.fold.tolist() == [0, 0, 1, 1]
    assert "assigned here" in without.fold_origin


def test_one_fold_alone_is_refused_by_what_needs_several(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nAnn\t1\t2\nAnn\t1\tBob\t3\n"))
    with pytest.raises(FacegmError, match=r"dev\.txt has one fold, but the threshold"):
        pairs.require_folds("dev.txt")
    read_pairs(write(tmp_path, TINY)).require_folds("pairs.txt")


def test_one_number_in_the_header_means_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nAnn\t1\t2\nAnn\t1\tBob\t3\n"))
    assert pairs.fold.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("2\t1\n", "2\t1\t1\n", 1, "matched pair"),
        ("2\t1\n", "0\t1\n", 1, "10<TAB>300"),
        ("2\t1\n", "Ann\n", 1, "10<TAB>300"),
        ("2\t1\n", "3\t1\n", 1, "expected 6 lines after it, found 4"),
        ("2\t1\n", "1\t1\n", 1, "expected 2 lines after it, found 4"),
        ("Ann\t1\t2\n", "Ann\t1\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "Ann\t1\t1\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "Ann\t0\t1\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "Ann\t1\ttwo\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "Ann\t1\t٢\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "..\t1\t2\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "a/b\t1\t2\n", 2, "matched pair"),
        ("Ann\t1\t2\n", "\n", 2, "matched pair"),
        ("Ann\t1\tBob\t3\n", "Ann\t1\t3\n", 3, "mismatched pair"),
        ("Ann\t1\tBob\t3\n", "Ann\t1\tAnn\t3\n", 3, "mismatched pair"),
        ("Ann\t1\tBob\t3\n", "Ann\t1\tBob\t-3\n", 3, "mismatched pair"),
        ("Ann\t1\tBob\t3\n", "", 3, "mismatched pair"),
        ("Cy\t4\tAnn\t2\n", "", 1, "expected 4 lines after it, found 3"),
        ("Cy\t4\tAnn\t2\n", "Cy\t4\tAnn\n", 5, "number 1 of 1 in fold 2"),
    ],
)
def test_an_error_names_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    path = write(tmp_path, TINY.replace(old, new))
    with pytest.raises(FacegmError) as caught:
        read_pairs(path)
    assert f"{path}, line {line}:" in str(caught.value)
    assert expected in str(caught.value)


def test_a_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"missing\.txt"):
        read_pairs(tmp_path / "missing.txt")
    (tmp_path / "latin1.txt").write_bytes(b"1\nJos\xe9\t1\t2\n")
    with pytest.raises(FacegmError, match=r"latin1\.txt.*cannot be read"):
        read_pairs(tmp_path / "latin1.txt")


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(FacegmError, match="differ in length"):
        Pairs(("a",), ("b", "c"), np.array([True]), np.array([0]))


person = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="/\\"), min_size=1, max_size=8).filter(
    lambda name: name.strip(".") != ""
)
number = st.integers(1, 99_999)


@st.composite
def files(draw: st.DrawFn) -> list[list[tuple[str, int, str, int]]]:
    """Folds of as many matched as, after them, mismatched pairs."""
    folds, size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    matched = st.tuples(person, number, number).filter(lambda p: p[1] != p[2]).map(lambda p: (p[0], p[1], p[0], p[2]))
    mismatched = st.tuples(person, number, person, number).filter(lambda p: p[0] != p[2])
    return [[draw(kind) for kind in (matched, mismatched) for _ in range(size)] for _ in range(folds)]


@given(files())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, folds: list[list[tuple[str, int, str, int]]]
) -> None:
    size = len(folds[0]) // 2
    rows = [pair for fold in folds for pair in fold]
    lines = [f"{a}\t{n}\t{m}" if a == b else f"{a}\t{n}\t{b}\t{m}" for a, n, b, m in rows]
    pairs = read_pairs(
        write(tmp_path_factory.mktemp("pairs"), "\n".join([f"{len(folds)}\t{size}", *lines]) + "\n"), extension=""
    )
    assert pairs.names_a == tuple(f"{a}/{a}_{n:04d}" for a, n, _, _ in rows)
    assert pairs.names_b == tuple(f"{b}/{b}_{m:04d}" for _, _, b, m in rows)
    assert pairs.same.tolist() == [a == b for a, _, b, _ in rows]
    assert pairs.fold.tolist() == [k for k, fold in enumerate(folds) for _ in fold]


@given(
    st.binary(max_size=60)
    | st.text("12\t\n ,Ab", max_size=40).map(str.encode)
    | st.lists(st.sampled_from(["a/1.jpg", "..", "1", "0", ",", "\t", " ", "\n", '"', "path_a,path_b,same\n"])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_garbage_is_refused_or_read_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_bytes(content)
    with contextlib.suppress(FacegmError):
        pairs = read_pairs(path)
        assert pairs.same.any()
        assert not pairs.same.all()
        assert sorted(set(pairs.fold.tolist())) == [*range(pairs.fold.max() + 1)]
        assert all(a != b for a, b in zip(pairs.names_a, pairs.names_b, strict=True))


def test_lfw_has_6000_pairs_in_10_folds_and_every_image_exists(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "lfw" / "pairs.txt")
    assert len(pairs) == 6000
    for fold in range(10):
        assert pairs.same[pairs.fold == fold].tolist() == [True] * 300 + [False] * 300
    people_a, people_b = ([name.split("/")[0] for name in names] for names in (pairs.names_a, pairs.names_b))
    assert [a == b for a, b in zip(people_a, people_b, strict=True)] == pairs.same.tolist()
    assert len(pairs.images) == 7701
    assert pairs.is_lfw
    assert pairs.people is not None
    numbers_a, numbers_b = pairs.people
    number_of = {name: number for number, name in enumerate(dict.fromkeys(people_a + people_b))}
    assert numbers_a.tolist() == [number_of[name] for name in people_a]
    assert np.array_equal(numbers_a == numbers_b, pairs.same)
    assert [name for name in pairs.images if not (shared_data / "lfw/lfw-deepfunneled" / name).is_file()] == []


@pytest.mark.parametrize(("name", "size"), [("pairsDevTest.txt", 500), ("pairsDevTrain.txt", 1100)])
def test_lfw_development_files_are_one_fold(shared_data: Path, name: str, size: int) -> None:
    pairs = read_pairs(shared_data / "lfw" / name)
    assert pairs.same.tolist() == [True] * size + [False] * size
    assert set(pairs.fold.tolist()) == {0}
