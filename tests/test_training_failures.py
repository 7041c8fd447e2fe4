"""Protects that a run which cannot go on says why in a line, ends at once in all processes, and loses nothing."""

import errno
import multiprocessing
import os
import re
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_resume import assert_equal, assert_same_end, log_of, newest_step
from face_runs import exported, small_config, write_config
from facegm_commands import MAY_NOT_MOUNT, MOUNT, Command, begin_ranks
from torch.utils.tensorboard import SummaryWriter

from facegm.data.workers import named_worker_failures
from facegm.errors import FacegmError
from facegm.faces import run as face_run
from facegm.faces.run import train_run
from facegm.training import log, run_folder, start
from facegm.training import run as training_run
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint, save_checkpoint
from facegm.training.config import OptimizerConfig
from facegm.training.distributed import Processes, Value
from facegm.training.loop import Trainer
from facegm.training.report import EVALUATION_BATCH
from facegm.training.room import check_room
from facegm.training.run_folder import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")
AT_ONCE = 20
"""Seconds, of which a busy machine takes most to begin; a hang would last."""


def reasons(*commands: Command) -> list[str]:
    """Why commands failed: one line of each, where nothing but its own lines was said."""
    found = []
    for command in commands:
        assert command.wait(AT_ONCE) == 1, command.output
        assert "Traceback" not in command.output
        assert "Exception ignored" not in command.output
        found += [line for line in command.output.splitlines() if line.startswith("facegm train: ")]
    assert len(found) == len(commands)
    return found


# ------------------------------------------------------------------------------------------------- faces

LOST = "person_2/person_2_0003.jpg.png: missing or damaged face of the store"


@pytest.fixture(params=["lost", "cut"])
def damaged_store(small_store: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    shutil.copytree(small_store, tmp_path / "store")
    face = tmp_path / "store" / "faces" / "person_2" / "person_2_0003.jpg.png"
    content = face.read_bytes()
    face.unlink()
    if request.param == "cut":
        face.write_bytes(content[:-100])
    return tmp_path / "store"


def test_a_damaged_face_that_a_worker_meets_ends_the_run(damaged_store: Path, tmp_path: Path) -> None:
    command = write_config(tmp_path, small_config(damaged_store, workers=2))
    (reason,) = reasons(Command(command, tmp_path))
    assert LOST in reason


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_face_that_one_of_two_processes_meets_ends_both(
    small_store: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(small_store, tmp_path / "store")
    (tmp_path / "store" / "faces" / LOST.partition(":")[0]).unlink()
    command = write_config(tmp_path, small_config(tmp_path / "store", workers=workers))
    found = reasons(*begin_ranks(command, tmp_path))
    of_loss = [f"process {rank} has lost another process of this run" in reason for rank, reason in enumerate(found)]
    of_face = [LOST in reason for reason in found]
    if workers:  # in a step, and the other one can only notice that it is alone
        assert sorted(zip(of_loss, of_face, strict=True)) == [(False, True), (True, False)]
    else:  # before the first step, where they wait for each other
        assert of_face == [True, True]


# ------------------------------------------------------------------------------------------------- the system


def worker_of(command: Command) -> int:
    """Number of one of the processes that decode for a command."""
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell the children of a process")
    command.wait_until(lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


def test_a_worker_that_the_system_kills_ends_the_run(small_store: Path, tmp_path: Path) -> None:
    """Protects from what happens where memory runs out."""
    command = write_config(tmp_path, small_config(small_store, workers=2, epochs=200, checkpoint_every=1))
    running = Command(command, tmp_path)
    running.wait_until(lambda: newest_step(tmp_path / "run") > 1)
    os.kill(worker_of(running), signal.SIGKILL)
    (reason,) = reasons(running)
    assert "has ended, or cannot hand over its images" in reason
    assert re.search("killed by signal: Killed|Connection reset|EOFError", reason)  # by what torch noticed first
    assert "lower data.workers" in reason
    assert "The same command goes on from the newest checkpoint" in reason
    assert load_newest_checkpoint(tmp_path / "run") is not None


def test_a_worker_that_dies_while_a_file_is_written_is_named_and_not_the_file() -> None:
    """Torch tells of it wherever the main process is, in the middle of a checkpoint too, whose writer complains."""

    @named_worker_failures()
    def write(*, is_worker_alive: bool) -> None:
        try:
            if not is_worker_alive:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 455424 vs 455516")

    with pytest.raises(FacegmError, match=r"has ended.*\(DataLoader worker \(pid 7\) is killed by signal: Killed\)"):
        write(is_worker_alive=False)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        write(is_worker_alive=True)


def test_workers_end_with_the_run_whatever_ends_it(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects from workers that live as long as an error does, which are then ended, and reported, as Python ends."""
    step = Trainer.step

    def step_or_fail(trainer: Trainer[Any], batch: Any, progress: Any, watch: Any) -> Any:
        if progress.step == 3:
            assert len(multiprocessing.active_children()) == 2
            raise KeyError("a fault of the program")
        return step(trainer, batch, progress, watch)

    monkeypatch.setattr(Trainer, "step", step_or_fail)
    with pytest.raises(KeyError) as error:
        train_run(small_config(small_store, workers=2), tmp_path / "run")
    assert error.value.__traceback__ is not None
    assert not multiprocessing.active_children()


ROOM = """
import os
from facegm.training import start
start.choose_residency = lambda *_: ("host", "stream")[int(os.environ["RANK"])]
"""


def test_machines_with_more_and_less_memory_train_together(small_store: Path, tmp_path: Path, whole: Path) -> None:
    """Protects from processes that wait for others, which do not decode what is to be kept."""
    ranks = begin_ranks(write_config(tmp_path, small_config(small_store)), tmp_path, code=ROOM)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    found, expected = ([line["loss"] for line in read_metrics(run)] for run in (tmp_path / "run", whole))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)


def test_room_is_wanted_for_all_that_workers_of_a_machine_load(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 processes, two on this machine: a quarter of the batch, and what two evaluate at a time."""

    class OneOfEight(Processes):
        def gather(self, value: Value) -> list[Value]:
            return [value]

    wanted: list[Any] = []
    monkeypatch.setattr(start, "check_room", lambda streamed, workers: wanted.append((streamed, workers)))
    config = small_config(small_store, workers=3)
    faces, held_out = face_run.open_training_faces(config), face_run.open_training_faces(config)
    setup = face_run.face_setup(config, faces, face_run.draw_plan(config, faces), tmp_path, held_out)
    eight = OneOfEight(rank=5, world_size=8, local_size=2, device=torch.device("cpu"))
    start.load_batches(setup, 0, eight).close()
    assert wanted == [([(faces, 6), (held_out, 2 * EVALUATION_BATCH)], 3)]
    held_out.keep_decoded(torch.device("cpu"))
    start.load_batches(setup, 0, eight).close()
    assert wanted[1] == ([(faces, 6)], 3)


def test_too_few_open_files_are_refused_before_the_first_step_in_all_processes(
    small_store: Path, tmp_path: Path
) -> None:
    limit = "import os, resource\n"
    limit += "if os.environ['RANK'] == '1': resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
    command = write_config(tmp_path, small_config(small_store, workers=2))
    for reason in reasons(*begin_ranks(command, tmp_path, code=limit)):
        assert "this process may have 40 files open, but takes over the batches of 2 worker(s) by 120" in reason
        assert "raise the limit (ulimit -n 240" in reason
    assert not read_metrics(tmp_path / "run")


def test_a_process_raises_its_own_limit_of_open_files(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, limits = face_run.open_training_faces(small_config(small_store)), [40, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), wanted))
    check_room([(faces, 24)], 0)
    assert limits == [40, 4096]
    check_room([(faces, 24)], 2)
    assert limits == [120, 4096]
    limits[:] = [40, resource.RLIM_INFINITY]
    check_room([(faces, 24)], 2)
    assert limits == [120, resource.RLIM_INFINITY]


@pytest.mark.parametrize("more", [16, 24])
def test_a_worker_that_cannot_hand_over_its_batch_ends_the_run(small_store: Path, tmp_path: Path, more: int) -> None:
    """Protects from batches that are lost, and waited for for ever, should more files be needed than was thought."""
    command = write_config(tmp_path, small_config(small_store, workers=2, epochs=200))
    unchecked = "from facegm.training import start\nstart.check_room = lambda *_: None\n"
    few = f"import os, resource\nfiles = max(map(int, os.listdir('/proc/self/fd'))) + {more}\n"
    few += "resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))\n"
    (reason,) = reasons(Command(command, tmp_path, code=unchecked + few))
    assert "cannot hand over its images" in reason
    assert "ulimit -n for files" in reason


# ------------------------------------------------------------------------------------------------- the run folder


def test_a_second_run_in_a_folder_is_refused_and_the_first_is_not_disturbed(
    small_store: Path, tmp_path: Path, whole: Path
) -> None:
    command, run = write_config(tmp_path, small_config(small_store, workers=1)), tmp_path / "run"
    slow = "import time\nfrom facegm.training import loop\nseed = loop._step_seed\n"
    slow += "loop._step_seed = lambda *a: time.sleep(0.3) or seed(*a)\n"
    first = Command(command, tmp_path, name="first.txt", code=slow)
    first.wait_until(lambda: len(read_metrics(run)) > 0)
    for reason in reasons(Command(command, tmp_path, name="second.txt"), *begin_ranks(command, tmp_path)):
        assert "run: another process is training in this folder; wait for its end, or give another --output" in reason
    first.wait_until(lambda: newest_step(run) > 0)
    first.kill()
    first.wait()
    third = Command(command, tmp_path, name="third.txt")  # at once, while workers of the first may still be there
    assert third.wait() == 0, third.output
    assert log_of(run) == log_of(whole)
    assert_equal(exported(run), exported(whole))


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_run(small_config(small_store), folder)
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "number", "left"),
    [
        (run_folder, "replace_atomically", 1, []),
        (run_folder, "replace_atomically", 2, []),
        (SummaryWriter, "add_scalar", 30, []),
        (log, "append_metrics", 8, [6]),
        (SummaryWriter, "add_embedding", 3, [6]),
        (face_run, "save_embedder", 1, [6, 12]),
        (training_run, "draw_geometry", 1, [6, 12]),
    ],
    ids=["environment", "configuration", "TensorBoard", "metrics", "projector", "embedder", "chart"],
)
def test_whatever_file_a_full_disk_has_no_room_for_it_is_said_and_nothing_is_lost(
    small_store: Path,
    tmp_path: Path,
    whole: Path,
    owner: Any,
    name: str,
    number: int,
    left: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    do, calls, run = getattr(owner, name), 0, tmp_path / "run"

    def write_if_there_is_room(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return do(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, write_if_there_is_room)
        with pytest.raises(FacegmError, match=rf"no space left in {run}: make room, and give the same command again"):
            train_run(small_config(small_store), run)
    assert [int(path.stem[5:]) for path in checkpoints(run)] == left
    train_run(small_config(small_store), run)
    assert_same_end(run, whole)
    assert_equal(exported(run), exported(whole))


def test_a_checkpoint_is_not_begun_where_the_disk_has_no_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"task": {"weight": torch.zeros(1_500_000)}, "nested": {"more": torch.zeros(500_000)}}
    save_checkpoint(tmp_path, 1, state, keep=1)
    usage = shutil.disk_usage(tmp_path)._replace(free=7_999_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = rf"no space left in {tmp_path}/checkpoints for a checkpoint of 8 MB \(8 MB are free\): make room"
    with pytest.raises(FacegmError, match=message):
        save_checkpoint(tmp_path, 2, state, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.pt"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=8_000_000))
    save_checkpoint(tmp_path, 2, state, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


def filled(writer: str, number: int) -> str:
    """Code for a small disk that becomes full at the given call of a function, and whose content is shown after."""
    owner, _, name = writer.rpartition(".")
    return f"""{MOUNT}
import atexit, pkgutil, shutil
os.mkdir("disk")
mount_small("disk", 40_000)
atexit.register(shutil.copytree, "disk/run", "run")
owner, calls = pkgutil.resolve_name("{owner}"), 0
do = owner.{name}

def fill_and_do(*arguments, **options):
    global calls
    calls += 1
    if calls == {number}:
        with open("disk/filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1_000))
            except OSError:
                pass
    return do(*arguments, **options)

owner.{name} = fill_and_do
"""


@pytest.mark.parametrize(
    ("writer", "number", "message"),
    [
        ("facegm.training.checkpoint.save_checkpoint", 2, "disk/run/checkpoints for a checkpoint of 2 MB (0 MB are"),
        ("torch.save", 2, "no space left in disk/run/checkpoints for a checkpoint of 2 MB (0 MB are free)"),
        ("facegm.training.log:ProgressLog.write", 8, "no space left in disk/run: make room"),
        ("facegm.faces.run.save_embedder", 1, "no space left in disk/run: make room"),
    ],
    ids=["before a checkpoint", "in a checkpoint", "in the log", "in the export"],
)
def test_a_disk_that_is_full_ends_the_run_and_what_it_holds_is_gone_on_with(
    small_store: Path, tmp_path: Path, whole: Path, writer: str, number: int, message: str
) -> None:
    command = write_config(tmp_path, small_config(small_store))
    full = Command([*command[:-1], "disk/run"], tmp_path, code=filled(writer, number))
    if full.wait() == MAY_NOT_MOUNT:
        pytest.skip("A DISK THAT IS REALLY FULL IS NOT TRIED: this user may not mount a file system")
    (reason,) = reasons(full)
    assert message in reason
    assert load_newest_checkpoint(tmp_path / "run") is not None
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert Command(command, tmp_path, name="again.txt").wait() == 0
    assert_same_end(tmp_path / "run", whole)


def test_a_full_disk_does_not_hide_that_a_loss_is_not_finite(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wild = replace(small_config(small_store), optimizer=OptimizerConfig(learning_rate=1e30, clip_gradient=float("inf")))
    monkeypatch.setattr("facegm.training.finite.replace_atomically", full)
    message = r"at step \d+ the loss or its gradient became .* listed nowhere \(.*No space left on device\)"
    with pytest.raises(FacegmError, match=message):
        train_run(wild, tmp_path / "run")
