"""Protects that a run can be stopped at any time, and is refused where it would starve: signals, and shared memory."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from exact_resume import assert_same_end, newest_step
from face_runs import exported, small_config, write_config
from facegm_commands import MAY_NOT_MOUNT, MOUNT, Command, begin_ranks

from facegm.checkup import machine
from facegm.errors import FacegmError, StoppedError
from facegm.faces.run import open_training_faces, train_run
from facegm.training import interruption, room
from facegm.training.interruption import SIGNALS, StopSignals
from facegm.training.room import check_room
from facegm.training.run_folder import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def endless(*items: int, seconds: float = 60.0) -> Iterator[int]:
    """Items that come at once, and one that comes too late."""
    yield from items
    time.sleep(seconds)
    yield 99


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What the tests of this file leave is as it was."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_two_items_is_noted_and_the_last_one_taken(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    seen = []
    with StopSignals(is_alone=True) as signals:
        for item in signals.until_stopped(endless(1, 2)):
            seen.append(item)
            if item == 2:
                send(number)
    assert (seen, signals.received) == ([1, 2], number.name)
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_of_a_process_that_is_alone(number: signal.Signals) -> None:
    signal.signal(signal.SIGALRM, lambda *_: send(number))
    began = time.monotonic()
    with StopSignals(is_alone=True) as signals:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert list(signals.until_stopped(endless(1))) == [1]
    assert time.monotonic() - began < 5


def test_what_cleans_up_after_the_wait_is_not_interrupted() -> None:
    """Protects from SIGTERM that comes twice, as from a service manager and from torchrun."""
    cleaned = []

    def items() -> Iterator[int]:
        try:
            yield from endless()
        finally:
            send(signal.SIGTERM)
            cleaned.append(True)

    signal.signal(signal.SIGALRM, lambda *_: send(signal.SIGTERM))
    with StopSignals(is_alone=True) as signals:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert list(signals.until_stopped(items())) == []
    assert cleaned


def test_the_second_interrupt_acts_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopSignals(is_alone=True):
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """Protects nohup, which ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(is_alone=True) as signals:
        send(signal.SIGHUP)
        received = [signals.received]
        send(signal.SIGTERM)
        assert [*received, signals.received] == [None, "SIGTERM"]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_of_several_processes_one_waits_a_while_for_the_step_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "PATIENCE", 0.3)
    with StopSignals(is_alone=False) as signals:
        late = signals.until_stopped(endless(1, seconds=0.1))
        assert next(late) == 1
        send(signal.SIGTERM)
        assert next(late) == 99  # in time, and the alarm that comes then does nothing
        time.sleep(0.4)
        with pytest.raises(StoppedError, match="stopped by SIGTERM while waiting for data, which other processes have"):
            next(signals.until_stopped(endless()))


# ------------------------------------------------------------------------------------------------- commands

HANG = """
import os, time
from facegm.faces.samples import LabelledFaces
give, calls = LabelledFaces.__getitem__, 0

def give_or_hang(self, drawn):
    global calls
    calls += 1
    if calls > 2 and os.environ.get("RANK", "1") == "1":
        time.sleep(600)
    return give(self, drawn)

LabelledFaces.__getitem__ = give_or_hang
"""


def test_data_that_never_come_can_be_stopped_waiting_for(small_store: Path, tmp_path: Path) -> None:
    """Protects from a disk or a worker that does not answer: the run is saved, ends at once and can be gone on with."""
    config = small_config(small_store, workers=2, checkpoint_every=100)
    command, run = write_config(tmp_path, config), tmp_path / "run"
    stuck = Command(command, tmp_path, code=HANG)
    stuck.wait_until(lambda: len(read_metrics(run)) == 4)  # two batches of each worker
    time.sleep(0.2)
    began = time.monotonic()
    stuck.signal_group(signal.SIGTERM)
    assert stuck.wait() == 130, stuck.output
    assert time.monotonic() - began < 8, "the workers were waited for"
    assert "stopped by SIGTERM after step 4 of 12, with a checkpoint" in stuck.output
    assert newest_step(run) == 4
    again = Command(command, tmp_path)
    assert again.wait() == 0
    assert "steps 4 to 12" in again.output
    assert "Traceback" not in again.output
    train_run(config, tmp_path / "whole")
    assert_same_end(run, tmp_path / "whole")


def test_data_of_one_process_that_never_come_end_all(small_store: Path, tmp_path: Path) -> None:
    patience = "\nfrom facegm.training import interruption\ninterruption.PATIENCE = 1.0\n"
    command = write_config(tmp_path, small_config(small_store, workers=1, checkpoint_every=1))
    ranks = begin_ranks(command, tmp_path, code=HANG + patience)
    ranks[0].wait_until(lambda: newest_step(tmp_path / "run") == 2)
    time.sleep(0.2)
    began = time.monotonic()
    for rank in ranks:
        rank.signal_group(signal.SIGTERM)
    assert [rank.wait() for rank in ranks] == [1, 130], ranks[0].output + ranks[1].output
    assert time.monotonic() - began < 10
    assert "stopped by SIGTERM while waiting for data, which other processes have" in ranks[1].output
    assert "process 0 has lost another process of this run" in ranks[0].output
    assert "Traceback" not in ranks[0].output + ranks[1].output
    assert newest_step(tmp_path / "run") == 2


def test_a_signal_to_one_process_stops_all_after_the_same_step(small_store: Path, tmp_path: Path) -> None:
    command = write_config(tmp_path, small_config(small_store, workers=1, epochs=200, checkpoint_every=10_000))
    ranks = begin_ranks(command, tmp_path)
    ranks[0].wait_until(lambda: len(read_metrics(tmp_path / "run")) > 2)
    ranks[1].signal_group(signal.SIGTERM)
    assert [rank.wait() for rank in ranks] == [130, 130], ranks[0].output + ranks[1].output
    step = newest_step(tmp_path / "run")
    assert f"stopped by a signal to another process after step {step} of 400, with a checkpoint" in ranks[0].output
    assert f"stopped by SIGTERM after step {step} of 400, with a checkpoint" in ranks[1].output
    assert "Traceback" not in ranks[0].output + ranks[1].output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_before_the_first_step_a_signal_acts_as_ever(
    small_store: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Protects from a Ctrl-C that is not heard for the minutes in which a large data set is decoded."""
    decode = "import time\nfrom facegm.faces import samples\nsamples.decode_to = lambda *_: time.sleep(600)\n"
    slow = Command(write_config(tmp_path, small_config(small_store)), tmp_path, code=decode)
    slow.wait_until(lambda: "steps 0 to 12" in slow.output)
    time.sleep(0.2)
    slow.signal_group(number)
    assert slow.wait(5) == code, slow.output
    assert "Traceback" not in slow.output


# ------------------------------------------------------------------------------------------------- shared memory


def docker(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    """So many bytes are left of 64 MB."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free / 4096, f_frsize=4096))
    monkeypatch.setattr(room, "SHARED_MEMORY", Path("/"))
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path("/"))


def test_batches_on_their_way_are_compared_with_shared_memory(
    small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = open_training_faces(small_config(small_store, workers=2))
    need = 24 * 56 * 56 * 3 * 2 * 3  # of two workers, each with two batches ahead and one in use
    docker(monkeypatch, need)
    check_room([(faces, 24)], 2)
    docker(monkeypatch, need - 4096)
    with pytest.raises(FacegmError, match=r"has 1 MB free, but 2 worker\(s\) have 1 MB .*--shm-size=1g"):
        check_room([(faces, 24)], 2)
    with pytest.raises(FacegmError):
        check_room([(faces, 12), (faces, 12)], 2)
    check_room([(faces, 24)], 0)
    check_room([(faces, 24)], 1)
    check_room([], 2)


def test_the_doctor_says_where_shared_memory_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    docker(monkeypatch, 64e6)
    assert machine.devices()["/"].startswith("64 MB free: too little for large batches that workers decode")
    docker(monkeypatch, 8e9)
    assert "/" not in machine.devices()


def test_a_run_that_shared_memory_has_no_room_for_is_refused_and_one_that_runs_out_of_it_ends(
    small_store: Path, tmp_path: Path
) -> None:
    """Protects from Docker's 64 MB, here 0.3, in which workers died at a later step, and the run waited for ever."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    command = write_config(tmp_path, small_config(small_store, workers=2))
    small = f"{MOUNT}\nmount_small('/dev/shm', 300)\n"
    refused = Command(command, tmp_path, name="refused.txt", code=small)
    if refused.wait() == MAY_NOT_MOUNT:
        pytest.skip("THE REAL SHORTAGE OF SHARED MEMORY IS NOT TRIED: this user may not mount a file system")
    assert refused.poll() == 1
    assert "step  1/12" not in refused.output
    assert "facegm train: /dev/shm has 0 MB free, but 2 worker(s) have 1 MB of batches on their way" in refused.output
    assert "--shm-size=1g" in refused.output

    unchecked = "\nfrom facegm.training import start\nstart.check_room = lambda *_: None\n"
    began = time.monotonic()
    starved = Command(command, tmp_path, name="starved.txt", code=small + unchecked)
    assert starved.wait(30) == 1, starved.output
    assert time.monotonic() - began < 15
    assert "facegm train: a process that decodes images has ended, or cannot hand over its images" in starved.output
    assert "Traceback" not in refused.output + starved.output
    assert Command(command, tmp_path).wait() == 0
    assert exported(tmp_path / "run")
