"""What threads share and a forked process makes anew.

A forked process has one thread, that which forked, and copies of locks that others held and of pools whose threads are
no more: whoever waits for one of those waits for ever.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import cv2
import torch

from facegm.errors import FacegmError

Value = TypeVar("Value")


class OncePerProcess(Generic[Value]):
    """A value that is made when it is first needed, once however many threads ask; in a forked process another one.

    Args:
        make: makes it.
        is_on_gpu: whether it lies on a GPU, which a forked process cannot use.
    """

    def __init__(self, make: Callable[[], Value], *, is_on_gpu: bool = False) -> None:
        self._make, self._is_on_gpu, self._is_lost = make, is_on_gpu, False
        self._lock, self._value = threading.Lock(), None
        _of_this_process.add(self)

    def get(self) -> Value:
        """The value of this process.

        Raises:
            FacegmError: it lies on a GPU, and this process was forked.
        """
        if self._is_lost:
            raise FacegmError(
                "a forked process cannot use the GPU of the one that it comes from; load the embedder there, or "
                "start processes by multiprocessing.get_context('spawn')"
            )
        _remember_thread(threading.get_native_id())
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def begin_anew(self) -> None:
        """In a forked process, before it does anything else."""
        _inherited.append(self._value)
        self._lock, self._value = threading.Lock(), None
        self._is_lost = self._is_on_gpu

    _value: Value | None


_of_this_process: WeakSet[OncePerProcess[Any]] = WeakSet()
_inherited: list[Any] = []
"""What a forked process has no use for: to free it might wait for threads of the one that it comes from."""
_this_thread = threading.local()
_computing = set[int]()
"""The system's numbers of the threads that have asked for a value, and of some that have ended since."""
_MANY = 256
"""Of those; from there on, the ones that are gone are left out."""
_TASKS = Path("/proc/self/task")
"""Where Linux has a folder for each thread of this process, named by its number."""
_ENDING, _SETTLED = 1.0, 0.02
"""Seconds that a fork waits for ended threads, at most and at least: until none has gone for so long."""


def compute_alone(threads: int) -> None:
    """Have what this thread computes be computed by it alone, whatever others do.

    torch sets the number, MKL's included, of the calling thread and of those that begin later, so that another thread
    has to set the latter's back.

    Args:
        threads: that others compute on.
    """
    _this_thread.process_threads = threads
    torch.get_num_threads()  # which, the first time in a thread, sets its number to the others'
    torch.set_num_threads(1)
    back = threading.Thread(target=torch.set_num_threads, args=(threads,))
    back.start()
    back.join()


def process_threads() -> int:
    """Threads that this process computes on, also where it is asked in one that computes alone.

    An engine that is made there serves others later.
    """
    return int(getattr(_this_thread, "process_threads", torch.get_num_threads()))


def _compute_on_one_thread() -> None:
    """In a forked process: torch and OpenCV would wait for the threads that computed for them before."""
    cv2.setNumThreads(0)
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    vars(_this_thread).clear()


def _let_threads_end() -> None:
    """Before a fork: wait for threads that Python has seen end, and for those that OpenMP had for them.

    The system ends them a moment later. In between, MKL gives back their buffers and holds its locks, on which the
    forked process would spin for ever.
    """
    ended = _computing - {thread.native_id for thread in threading.enumerate() if thread.native_id is not None}
    there = _system_threads() if ended else set()
    begun = changed = time.monotonic()
    while there and (now := time.monotonic()) < begun + _ENDING and (there & ended or now < changed + _SETTLED):
        time.sleep(0.001)
        if (left := _system_threads()) != there:
            there, changed = left, now
    _computing.difference_update(ended)


def _remember_thread(number: int) -> None:
    if number not in _computing:
        if len(_computing) >= _MANY:
            _computing.intersection_update(_system_threads())
        _computing.add(number)


def _system_threads() -> set[int]:
    """The numbers of this process's threads; none where the system does not tell them."""
    return {int(task.name) for task in _TASKS.iterdir()} if _TASKS.is_dir() else set()


def _begin_anew() -> None:
    _computing.clear()
    _compute_on_one_thread()
    for once in _of_this_process:
        once.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_threads_end, after_in_child=_begin_anew)
