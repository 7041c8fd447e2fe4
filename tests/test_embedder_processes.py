"""Protects an embedder that threads share, a process forks with, or a pool is sent: same results, and nobody waits."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from embedder_processes import (
    embedding_of,
    fork_and_make_in_two_threads,
    fork_where_threads_have_ended,
    fork_while_a_thread_makes,
    fork_with_an_embedder,
)
from embedders import group, portrait, save_small_embedder, small_embedder
from forks import forks
from PIL import Image

from facegm import FaceEmbedder
from facegm.align.detector import FaceDetector
from facegm.embedding import embedder as embedder_module
from facegm.embedding import engine, processes
from facegm.embedding.processes import OncePerProcess
from facegm.errors import FacegmError

PATIENCE = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_embedder(tmp_path_factory.mktemp("model") / "embedder.safetensors")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "portrait.png"
    Image.fromarray(portrait(80, 80)).save(path)
    return path


def run_to_its_end(target: Callable[..., None], *arguments: object) -> None:
    process = forks().Process(target=target, args=arguments)
    process.start()
    process.join(PATIENCE)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
        process.join()
    assert not hangs, "the forked process waits for ever"
    assert process.exitcode == 0


# ------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("is_translated", [False, True])
def test_eight_threads_find_what_one_finds(is_translated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both engines of a CPU; what is shared is made once, although all threads ask for it at once."""
    if is_translated:
        pytest.importorskip("openvino")
        monkeypatch.setattr(engine, "WORTH_A_TRANSLATION", 0)
    made: list[FaceDetector] = []

    def detector(*arguments: object, **options: object) -> FaceDetector:
        made.append(FaceDetector())
        return made[-1]

    monkeypatch.setattr(embedder_module, "FaceDetector", detector)
    photos = [portrait(side, side) for side in (80, 90, 100, 110)] + [group()[::2, ::2]]
    expected = [small_embedder().find(one, color="rgb") for one in photos]
    made.clear()
    shared, barrier = small_embedder(), threading.Barrier(8)

    def look(number: int) -> None:
        barrier.wait(PATIENCE)
        for turn in range(len(photos)):
            which = (number + turn) % len(photos)
            found = shared.find(photos[which], color="rgb")
            assert len(found) == len(expected[which])
            for a, b in zip(found, expected[which], strict=True):
                np.testing.assert_array_equal(a.chip, b.chip)
                assert a.embedding is not None
                assert b.embedding is not None
                np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-6)

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(look, range(8))] == [None] * 8
    assert len(made) == 1


# ------------------------------------------------------------------------------------------------- forks


def test_a_forked_process_goes_on_with_the_embedder(model: Path, photo: Path, tmp_path: Path) -> None:
    """The parent has computed on several threads, whose pool the child has not: it used to wait for them for ever."""
    run_to_its_end(fork_with_an_embedder, model, photo, tmp_path)
    parent, child = np.load(tmp_path / "parent.npy"), np.load(tmp_path / "child.npy")
    np.testing.assert_allclose(child, parent, atol=1e-5)


def test_a_process_forks_as_soon_as_its_threads_have_ended(model: Path, photo: Path) -> None:
    """MKL used to hold its locks then, every third time."""
    run_to_its_end(fork_where_threads_have_ended, model, photo, 12)


def test_a_lock_that_another_thread_held_is_not_waited_for(tmp_path: Path) -> None:
    run_to_its_end(fork_while_a_thread_makes, tmp_path)
    assert (tmp_path / "child.txt").read_text() == "True"


def test_two_threads_of_a_forked_process_make_one_value(tmp_path: Path) -> None:
    """Although one of them finds out slowly in which process it is."""
    run_to_its_end(fork_and_make_in_two_threads, tmp_path)
    assert (tmp_path / "child.txt").read_text() == "1 made, one for both: True"


def test_threads_that_are_gone_are_forgotten() -> None:
    """Each call has threads of its own, and a server that never forks answers many."""
    once = OncePerProcess(lambda: 1)
    for _ in range(3 * processes._MANY):
        thread = threading.Thread(target=once.get)
        thread.start()
        thread.join()
    assert len(processes._computing) <= processes._MANY + threading.active_count()


def test_a_gpu_is_refused_in_a_forked_process() -> None:
    once = OncePerProcess(lambda: 1, is_on_gpu=True)
    assert once.get() == 1
    once.begin_anew()
    with pytest.raises(FacegmError, match=r"a forked process cannot use the GPU .*get_context"):
        once.get()


# ------------------------------------------------------------------------------------------------- pickling


def test_an_embedder_is_sent_to_a_pool(model: Path, photo: Path) -> None:
    embedder = FaceEmbedder.load(model)
    expected = embedder.embed([photo])[0]  # now it has a detector and an engine
    with forks().Pool(1) as pool:
        found = pool.apply_async(embedding_of, (embedder, photo)).get(PATIENCE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_pickled_embedder_is_the_same_in_all(model: Path) -> None:
    embedder = FaceEmbedder.load(model)
    copy = pickle.loads(pickle.dumps(embedder))
    assert (copy.contract, copy.describe(), copy.calibration) == (
        embedder.contract,
        embedder.describe(),
        embedder.calibration,
    )
    # Of tensors multiprocessing would send a handle of shared memory, a hundred bytes each.
    assert len(bytes(ForkingPickler.dumps(embedder))) > model.stat().st_size
