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
