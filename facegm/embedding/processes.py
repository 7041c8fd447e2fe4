"""What threads share and a forked process makes anew.

A forked process has one thread, that which forked, and copies of locks that others held and of pools whose threads are
no more: whoever waits for one of those waits for ever.
"""

import os
from collections.abc import Callable
from threading import Lock, local
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import cv2
import torch
from threadpoolctl import threadpool_limits

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
        self._lock, self._value = Lock(), None
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
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def begin_anew(self) -> None:
        """In a forked process, before it does anything else."""
        _inherited.append(self._value)
        self._lock, self._value = Lock(), None
        self._is_lost = self._is_on_gpu

    _value: Value | None


_of_this_process: WeakSet[OncePerProcess[Any]] = WeakSet()
_inherited: list[Any] = []
"""What a forked process has no use for: to free it might wait for threads of the one that it comes from."""
_this_thread = local()


def compute_alone() -> None:
    """Have what this thread computes be computed by it alone, whatever others do."""
    _this_thread.process_threads = torch.get_num_threads()  # which sets this thread's number to it as well, once
    threadpool_limits(1, user_api="openmp")  # the calling thread's alone


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


def _begin_anew() -> None:
    _compute_on_one_thread()
    for once in _of_this_process:
        once.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
