"""Protects a gallery against kill -9 and against others who write to it at the same time.

Whenever a process is killed, each call of `enroll` that had returned is there as a whole, and the one that had not is
there as a whole or not at all.
"""

import random
import time
from pathlib import Path

import pytest
from forks import forks
from galleries import CONTRACT, SAMPLES, acknowledged, calls_found, drawn, enroll_and_acknowledge

from facegm.gallery.gallery import Gallery


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_no_acknowledged_sample_is_lost_by_kill_9(kills: int, tmp_path: Path) -> None:
    moments, path = random.Random(kills), tmp_path / "people.gallery"
    with_journal, calls = 0, {}
    for number in range(kills):
        run = f"run {number}"
        process = forks().Process(target=enroll_and_acknowledge, args=(path, run, 10_000))
        process.start()
        wanted, end = moments.randrange(6), time.monotonic() + 60  # 0: perhaps while the file is made
        while acknowledged(path, run) < wanted:
            assert process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        with_journal += path.with_name("people.gallery-journal").exists()
        with Gallery.create(path, CONTRACT) as gallery:
            found = calls_found(path, run)
            assert found - acknowledged(path, run) in (0, 1)
            calls[run] = found
            assert len(gallery) == SAMPLES * sum(calls.values()), "what was there before is there still"
            assert gallery.search(drawn(number), k=1)[0] or not found
    assert [calls_found(path, run) for run in calls] == [*calls.values()]
    assert with_journal or kills < 20, "some kills came in the middle of a transaction"


def test_two_processes_that_enrol_at_once_lose_nothing(tmp_path: Path) -> None:
    """They make the file at once as well; and a third one follows."""
    path, runs = tmp_path / "people.gallery", ("one", "two")
    processes = [forks().Process(target=enroll_and_acknowledge, args=(path, run, 25)) for run in runs]
    for process in processes:
        process.start()
    with Gallery.create(path, CONTRACT) as gallery:
        while any(process.is_alive() for process in processes):
            gallery.search(drawn(0), k=3)
            time.sleep(0.01)
        assert [process.exitcode for process in processes] == [0, 0]
        assert [calls_found(path, run) for run in runs] == [25, 25]
        assert gallery.people == {f"person {number}": 10 * SAMPLES for number in range(5)}
        assert len(gallery.search(drawn(0), k=9)[0]) == 5
