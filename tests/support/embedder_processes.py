"""What processes with an embedder do in tests; they find it by name, whichever way they were begun."""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from facegm import FaceEmbedder
from facegm.embedding.processes import OncePerProcess

THREADS = 2


def fork_with_an_embedder(model: Path, photo: Path, folder: Path) -> None:
    """Use an embedder on several threads, fork, and use it there; each process leaves what it found in the folder."""
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    embedder = FaceEmbedder.load(model, device="cpu")

    def embed(name: str) -> None:
        """In this very thread by `find`, and in others by `embed`."""
        [face] = embedder.find(photo)
        np.save(folder / f"{name}.npy", np.stack([np.asarray(face.embedding), *embedder.embed([photo])]))

    embed("parent")
    _in_a_fork(lambda: embed("child"))


def fork_where_threads_have_ended(model: Path, photo: Path, forks: int) -> None:
    """Use an embedder in threads, fork as soon as they have ended, and compute in the forked process; again and again.

    By `embed` in its threads, and by `find` in some that have other threads compute for them.
    """
    torch.set_num_threads(THREADS)
    embedder = FaceEmbedder.load(model, device="cpu")
    for number in range(forks):
        if number % 2:
            embedder.embed([photo])
        else:
            threads = [threading.Thread(target=embedder.find, args=(photo,)) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        _in_a_fork(lambda: torch.mm(torch.ones(64, 300), torch.ones(300, 200)))


def fork_while_a_thread_makes(folder: Path) -> None:
    """Fork while another thread holds the lock; the value that the forked process makes goes to the folder."""
    begun, may_end = threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        if threading.current_thread() is maker:
            may_end.wait()
        return os.getpid()

    once = OncePerProcess(make)
    maker = threading.Thread(target=once.get)
    maker.start()
    begun.wait()
    _in_a_fork(lambda: (folder / "child.txt").write_text(str(once.get() == os.getpid())))
    may_end.set()


def fork_and_make_in_two_threads(folder: Path) -> None:
    """Fork with a value, which two threads ask for there; how many were made goes to the folder.

    Until one of them has the value, the other does not get to know the process's number.
    """
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    once, is_made = OncePerProcess(make), threading.Event()
    once.get()

    def ask() -> None:
        made.clear()
        number, main = os.getpid(), threading.current_thread()
        asked, found = threading.Event(), list[object]()

        def slowly() -> int:
            if threading.current_thread() is not main:
                asked.set()
                is_made.wait()
            return number

        def get() -> None:
            found.append(once.get())
            asked.set()

        os.getpid = slowly
        other = threading.Thread(target=get)
        other.start()
        asked.wait()
        found.append(once.get())
        is_made.set()
        other.join()
        (folder / "child.txt").write_text(f"{len(made)} made, one for both: {found[0] is found[1]}")

    _in_a_fork(ask)


def _in_a_fork(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    sys.stdout.flush()


def embedding_of(embedder: FaceEmbedder, photo: Path) -> np.ndarray:
    """By an embedder that was sent here."""
    return np.asarray(embedder.embed([photo])[0])
