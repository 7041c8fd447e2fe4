"""Protects the log of a long work from silence, and from more than a line now and then."""

import io
import logging
import sys

import pytest

from facegm.data.progress import LOG_INTERVAL, Progress


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_a_line_comes_every_30_seconds(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="facegm.data.progress")
    clock = _Clock()
    assert LOG_INTERVAL == 30
    with Progress("align", 500_000, "photos", done=10_000, clock=clock) as progress:
        for _ in range(100):
            clock.now += 1
            progress.update(171)
    assert caplog.messages == [
        # 171 a second of this run; of 490,000 photos 484,870, 479,740 and 474,610 are left.
        "align: 15,130 of 500,000 photos, 171/s, 47 min left",
        "align: 20,260 of 500,000 photos, 171/s, 47 min left",
        "align: 25,390 of 500,000 photos, 171/s, 46 min left",
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "done", "expected"),
    [
        (1_000, 100, "100 of 1,000 faces, 2.5/s, 6 min left"),
        (300, 100, "100 of 300 faces, 2.5/s, 80 s left"),
        (100_000, 100, "100 of 100,000 faces, 2.5/s, 11 h 06 min left"),
        (1_000, 0, "0 of 1,000 faces, 0.0/s, no end in sight"),
    ],
)
def test_slow_work_and_long_times_are_readable(
    total: int, done: int, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="facegm.data.progress")
    clock = _Clock()
    with Progress("embed", total, "faces", clock=clock) as progress:
        clock.now += 40
        progress.update(done)
    assert caplog.messages == [f"embed: {expected}"]


def test_on_a_terminal_there_is_a_bar_and_no_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="facegm.data.progress")
    terminal, clock = _Terminal(), _Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("facegm.data.progress._BAR_DELAY", 0)
    with Progress("align", 10, "photos", clock=clock) as progress:
        clock.now += 100
        progress.update(10)
    assert "align: 100%" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
    assert caplog.messages == []


@pytest.mark.parametrize("terminal", [_Terminal(), io.StringIO()])
def test_what_shall_not_be_shown_is_not(
    terminal: io.StringIO, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="facegm.data.progress")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("facegm.data.progress._BAR_DELAY", 0)
    clock = _Clock()
    with Progress("decode", 10, "images", is_shown=False, clock=clock) as progress:
        clock.now += 100
        progress.update(5)
    assert (terminal.getvalue(), caplog.messages) == ("", [])


def test_where_nothing_is_shown_no_bar_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects workers from the semaphore of tqdm, of which Python complains when they are killed."""
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setattr("facegm.data.progress.tqdm", None)
    with Progress("embed", 10, "faces", is_shown=False) as progress:
        progress.update(10)
