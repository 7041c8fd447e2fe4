"""Protects users' own lists of pairs: what is written is read, in every spelling, and what is wrong is named."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.errors import FacegmError
from facegm.eval.pairs import Pairs, read_pairs

PAIRS = [("Ann/1.jpg", "Ann/2.jpg", True), ("Ann/1.jpg", "Bob/1.jpg", False), ("Bob/1.jpg", "Bob/2.jpg", True)]
PAIRS += [("Cy/1.jpg", "Bob/2.jpg", False)]


def read(folder: Path, text: str | bytes, name: str = "pairs.csv") -> Pairs:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_pairs(path)


def columns(pairs: Pairs) -> list[tuple[str, str, bool]]:
    return list(zip(pairs.names_a, pairs.names_b, pairs.same.tolist(), strict=True))


@pytest.mark.parametrize("separator", [",", "\t", " ", "  ", ", "])
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_two_paths_and_a_label(tmp_path: Path, separator: str, header: bool, ending: str, mark: str) -> None:
    lines = [separator.join([a, b, str(int(same))]) for a, b, same in PAIRS]
    lines = [separator.join(["path_a", "path_b", "same"])] * header + lines
    assert columns(read(tmp_path, mark + ending.join(lines) + ending + ending)) == PAIRS


@pytest.mark.parametrize(
    "header",
    ["path1,path2,label", "IMAGE_1,image_2,Is_Same", "img1,img2,issame", "file_a,file_b,same", "image1,image2,label"],
)
def test_other_names_of_the_columns(tmp_path: Path, header: str) -> None:
    assert columns(read(tmp_path, f"{header}\nAnn/1,Ann/2,true\nAnn/1,Bob/1,False\n")) == [
        ("Ann/1", "Ann/2", True),
        ("Ann/1", "Bob/1", False),
    ]


def test_named_columns_come_in_any_order_among_others(tmp_path: Path) -> None:
    text = "fold,age,same,path_b,path_a\n7,,1,b.jpg,a.jpg\n3,40,1,d.jpg,c.jpg\n7,,0,f.jpg,e.jpg\n3,,0,b.jpg,c.jpg\n"
    pairs = read(tmp_path, text)
    assert pairs.names_a == ("a.jpg", "c.jpg", "e.jpg", "c.jpg")
    assert pairs.names_b == ("b.jpg", "d.jpg", "f.jpg", "b.jpg")
    assert pairs.fold.tolist() == [1, 0, 1, 0], "folds 3 and 7 are 0 and 1"
    assert pairs.fold_origin == "given with the pairs"


def test_a_fourth_column_is_the_fold(tmp_path: Path) -> None:
    pairs = read(tmp_path, "a b 1 1\na c 0 1\nd e 1 2\nd f 0 2\n")
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_numbers_may_be_paths_too(tmp_path: Path) -> None:
    """`1 2 1` could name two photos of person 1, were there no pair with a 0."""
    assert columns(read(tmp_path, "1 2 1\n2 3 0\n")) == [("1", "2", True), ("2", "3", False)]


def test_windows_paths_and_spaces_and_commas_in_names(tmp_path: Path) -> None:
    assert columns(read(tmp_path, 'Ann Lee\\1.jpg\t.\\Ann Lee\\2.jpg\t1\n"Bob, 2\\1.jpg"\tCy/1.jpg\t0\n')) == [
        ("Ann Lee/1.jpg", "Ann Lee/2.jpg", True),
        ("Bob, 2/1.jpg", "Cy/1.jpg", False),
    ]


GOOD = "path_a,path_b,same\na,b,1\na,c,0\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("path_a,", "left,", 1, "expected pairs as `path_a,path_b,same`.*LFW's format.*found 'left,path_b,same'"),
        ("a,b,1", "a,b,2", 2, "column 3: expected 1 .* or 0 .*, found '2'"),
        ("a,b,1", "a,b", 2, "expected 3 columns as in line 1, found 2"),
        ("a,c,0", "a,c,0,1", 3, "expected 3 columns as in line 1, found 4"),
        ("a,b,1", "../a,b,1", 2, r"column 1: expected a path below the photos' folder.*found '\.\./a'"),
        ("a,b,1", "a,x/../b,1", 2, "column 2: expected a path below the photos' folder"),
        ("a,b,1", "/etc/passwd,b,1", 2, "neither absolute"),
        ("a,b,1", r"C:\a,b,1", 2, "neither absolute"),
        ("a,b,1", r"..\a,b,1", 2, "neither absolute"),
        ("a,b,1", ",b,1", 2, "column 1: expected a path"),
        ("a,b,1", "a,./a,1", 2, "expected two images, found 'a' twice"),
        ("a,b,1", '"a,b,1', 2, "not CSV"),
    ],
)
def test_an_error_names_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(FacegmError, match=f"pairs.csv, line {line}[:,].*{message}"):
        read(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("path_a,path_b,same\n", "no pair follows"),
        ("a,b,1\nc,d,1\n", "the file holds 2 matched and no mismatched pairs"),
        ("a,b,0\nc,d,0\n", "the file holds 2 mismatched and no matched pairs"),
        ("a,b,0,4\nc,d,1,4\ne,f,1,5\n", "fold 5 holds 1 matched and no mismatched pairs"),
        ("path_a,path_b,same,fold\na,b,0,one\n", "line 2, column 4: expected a fold's number, found 'one'"),
        (b"\xff\xfea\0,\0b\0", "cannot be read as lines of text"),
        ("a\0,b,1\n", "no text"),
        ("Ann 1 2\nAnn 1 Bob\n", "line 2: expected a matched pair .* or a mismatched pair .*, found 'Ann 1 Bob'"),
    ],
)
def test_files_that_hold_no_set_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(FacegmError, match=f"pairs.csv.*{message}"):
        read(tmp_path, text)


word = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters='/\\:"'), min_size=1, max_size=6).filter(
    lambda text: text.strip(".") != ""
)
image = st.lists(word, min_size=1, max_size=3).map("/".join)
images = st.tuples(image, image).filter(lambda names: names[0] != names[1])
both_kinds = st.tuples(images, images)
Row = tuple[str, str, bool, int]


@st.composite
def rows_of_folds(draw: st.DrawFn) -> list[Row]:
    """Pairs of both kinds in some folds, whose numbers leave gaps."""
    numbers = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    rows = []
    for number in numbers:
        for matched, mismatched in draw(st.lists(both_kinds, min_size=1, max_size=2)):
            rows += [(*matched, True, number), (*mismatched, False, number)]
    return draw(st.permutations(rows))


@given(rows_of_folds(), st.permutations(["path_a", "path_b", "same", "fold"]))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], order: list[str]
) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, order)
    writer.writeheader()
    for row in rows:
        writer.writerow(dict(zip(["path_a", "path_b", "same", "fold"], row, strict=True)))
    pairs = read(tmp_path_factory.mktemp("pairs"), text.getvalue())
    assert columns(pairs) == [(a, b, same) for a, b, same, _ in rows]
    numbers = sorted({row[3] for row in rows})
    assert pairs.fold.tolist() == [numbers.index(row[3]) for row in rows]


# ------------------------------------------------------------------------------------------------- people and folds


def test_people_are_known_where_folders_tell_them_in_every_pair(tmp_path: Path) -> None:
    known = read(tmp_path, "".join(f"{a},{b},{int(same)}\n" for a, b, same in PAIRS)).people
    assert known is not None
    assert [side.tolist() for side in known] == [[0, 0, 1, 2], [0, 1, 1, 1]]
    assert read(tmp_path, "Ann/1,Ann/2,1\nAnn/1,Bob/1,0\nAnn/1,Ann/3,0\n").people is None, "a folder of two people"
    assert read(tmp_path, "Ann/1,Ann/2,1\nAnn/1,Bob/1,0\nAnn/1,Cy/3,1\n").people is None, "a person in two folders"
    assert read(tmp_path, "Ann/1,Ann/2,1\n1,Bob/1,0\n").people is None, "a photo in no folder"


def test_people_are_kept_apart_by_the_folds_where_that_is_possible(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for group in range(40):  # of two people each, who are compared with each other alone
        one, other = f"{group}x", f"{group}y"
        lines += [f"{one}/{n},{one}/{n + 1},1" for n in range(rng.integers(1, 4))]
        lines += [f"{other}/{n},{other}/{n + 1},1" for n in range(rng.integers(1, 4))]
        lines += [f"{one}/{n},{other}/{n},0" for n in range(rng.integers(2, 5))]
    order = rng.permutation(len(lines))
    pairs = read(tmp_path, "\n".join(lines[number] for number in order))
    assert pairs.fold_origin == "10 folds assigned here, nobody in two of them"
    folds_of: dict[str, set[int]] = {}
    for a, b, fold in zip(pairs.names_a, pairs.names_b, pairs.fold.tolist(), strict=True):
        for name in (a, b):
            folds_of.setdefault(name.split("/")[0], set()).add(fold)
    assert {len(folds) for folds in folds_of.values()} == {1}
    for kind in (pairs.same, ~pairs.same):
        counts = np.bincount(pairs.fold[kind], minlength=10)
        assert counts.min() >= 0.5 * counts.mean()
    assert np.array_equal(pairs.fold, read(tmp_path, "\n".join(lines[number] for number in order)).fold)


def test_else_each_kind_is_cut_into_even_consecutive_folds(tmp_path: Path) -> None:
    """One person is compared with everybody, so that none can be kept apart."""
    lines = [f"Ann/{n},Ann/{n + 1},1" for n in range(23)] + [f"Ann/{n},p{n}/1,0" for n in range(31)]
    pairs = read(tmp_path, "\n".join(lines))
    assert "people may be in several" in pairs.fold_origin
    for kind, count in ((pairs.same, 23), (~pairs.same, 31)):
        folds = pairs.fold[kind]
        assert np.array_equal(folds, np.sort(folds))
        assert set(np.bincount(folds, minlength=10).tolist()) == {count // 10, count // 10 + 1}


def test_few_pairs_make_as_many_folds_as_there_are_of_a_kind(tmp_path: Path) -> None:
    pairs = read(tmp_path, "a,b,1\na,c,1\na,d,1\na,e,0\na,f,0\n")
    assert pairs.fold.tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize("form", ["pairs.txt without its header", "path path 1", "CSV of names and numbers"])
def test_lfw_in_another_form_keeps_its_own_folds(shared_data: Path, tmp_path: Path, form: str) -> None:
    path = shared_data / "lfw" / "pairs.txt"
    original = read_pairs(path)
    lines = path.read_text().splitlines()[1:]
    if form == "path path 1":
        lines = [f"{a} {b} {int(same)}" for a, b, same in columns(original)]
    elif form == "CSV of names and numbers":
        fields = [line.split("\t") for line in lines]
        lines = ["name,imagenum1,imagenum2,", *(",".join([*row, ""][:4]) for row in fields)]
    pairs = read(tmp_path, "\n".join(lines))
    assert columns(pairs) == columns(original)
    assert np.array_equal(pairs.fold, original.fold)
    assert pairs.is_lfw
    assert "10 blocks" in pairs.fold_origin
