"""What threads share and a forked process makes anew.

A forked process has one thread, that which forked, and copies of locks that others held and of pools whose threads are
no more: whoever waits for one of those waits for ever.
"""

import os
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

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
        self._make, self._is_on_gpu = make, is_on_gpu
        self._begin()

    def get(self) -> Value:
        """The value of this process.

        Raises:
            FacegmError: it lies on a GPU, and this process was forked.
        """
        if self._process != os.getpid():
            if self._is_on_gpu:
                raise FacegmError(
                    "a forked process cannot use the GPU of the one that it comes from; load the embedder there, or "
                    "start processes by multiprocessing.get_context('spawn')"
                )
            self._begin()
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def _begin(self) -> None:
        self._lock, self._value = Lock(), None
        self._process = os.getpid()

    _value: Value | None


def compute_alone() -> None:
    """Have what this thread computes be computed by it alone, whatever others do."""
    torch.get_num_threads()  # which sets this thread's number to that of the process, once
    threadpool_limits(1, user_api="openmp")  # the calling thread's alone


def _compute_on_one_thread() -> None:
    """In a forked process: torch and OpenCV would wait for the threads that computed for them before."""
    cv2.setNumThreads(0)
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_on_one_thread)
