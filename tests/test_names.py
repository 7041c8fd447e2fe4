"""Protects what is printed of names, whatever the photos are called."""

from hypothesis import given
from hypothesis import strategies as st

from facegm.data.names import printable


@given(st.text())
def test_printable_names_are_printable_and_ordinary_ones_stay(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode()
    assert (shown == name) == name.isprintable()
