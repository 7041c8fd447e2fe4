"""Protects the file of timings, whatever the photos are called, and what is printed of their names."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegm.align.timings import read_timings
from facegm.data.names import printable
from facegm.errors import FacegmError


@given(
    rows=st.dictionaries(
        st.binary(min_size=1, max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape")),
        st.tuples(*[st.floats(0, 1e6)] * 3),
    ),
    cut=st.integers(0, 30),
)
def test_timings_come_back_whatever_the_names_and_wherever_the_file_ends(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[float, ...]], cut: int
) -> None:
    lines = [f"{json.dumps(key)},{','.join(map(repr, seconds))}\n" for key, seconds in rows.items()]
    text = "key,decode_s,detect_s,finish_s\n" + "".join(lines)
    path = tmp_path_factory.getbasetemp() / "timings.csv"
    path.write_text(text[: len(text) - cut])
    whole, length = 0, len("key,decode_s,detect_s,finish_s\n")
    while whole < len(lines) and length + len(lines[whole]) <= len(text) - cut:
        length += len(lines[whole])
        whole += 1
    assert read_timings(path) == dict(list(rows.items())[:whole])


def test_a_damaged_line_of_the_timings_is_named(tmp_path: Path) -> None:
    path = tmp_path / "timings.csv"
    for line in ('"a",1,2,x\n', "a,1,2,3\n", "\n", "[1],1,2,3\n", '"a",2\n'):
        path.write_text('key,decode_s,detect_s,finish_s\n"b",1,2,3\n' + line)
        with pytest.raises(FacegmError, match=r"timings\.csv, line 3: damaged"):
            read_timings(path)
    assert read_timings(tmp_path / "absent.csv") == {}


@given(st.text())
def test_printable_names_are_printable_and_ordinary_ones_stay(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode()
    assert (shown == name) == name.isprintable()
