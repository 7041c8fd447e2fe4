"""Photos of many clients, looked at together by one thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

Photo = TypeVar("Photo")
Found = TypeVar("Found")
WAIT = 0.004
"""Seconds that a photo waits for others to come, where the thread has nothing to do."""
BATCH_PIXELS = 2**24
"""Pixels that are looked at together at most, so that memory is bounded; a larger photo is looked at alone."""


class _Waiting(NamedTuple, Generic[Photo, Found]):
    photo: Photo
    pixels: int
    found: "asyncio.Future[Found]"


class Batcher(Generic[Photo, Found]):
    """Takes photos one by one and has them looked at in batches, in the order in which they came.

    Its queue has no bound of its own: the server bounds the requests in progress.

    Args:
        look: looks at photos and returns what it found in each; called by one thread alone.
        max_batch: photos that it is given at most.
    """

    def __init__(self, look: Callable[[Sequence[Photo]], Sequence[Found]], *, max_batch: int) -> None:
        self._look, self._max_batch = look, max_batch
        self._queue: deque[_Waiting[Photo, Found]] = deque()
        self._has_come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    async def find(self, photo: Photo, pixels: int) -> Found:
        """What is found in a photo.

        Args:
            photo: handed on as it is.
            pixels: that it has when it is decoded.
        """
        waiting: _Waiting[Photo, Found] = _Waiting(photo, pixels, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._has_come.set()
        return await waiting.found

    async def run(self) -> None:
        """Serve what is asked for, until the task is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = await self._next_batch()
                photos = [waiting.photo for waiting in batch]
                try:
                    found = await loop.run_in_executor(self._thread, self._look, photos)
                    for waiting, of_photo in zip(batch, found, strict=True):
                        _settle(waiting.found, of_photo)
                except Exception as error:
                    for waiting in batch:
                        _settle(waiting.found, error)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _next_batch(self) -> list[_Waiting[Photo, Found]]:
        """Photos that have come and were not given up since; at least one.

        While a batch is looked at, others come; only where there were none is it worth to wait for more.
        """
        batch: list[_Waiting[Photo, Found]] = []
        pixels = 0
        while not batch:
            if not self._queue:
                self._has_come.clear()
                await self._has_come.wait()
                if self._max_batch > 1:
                    await asyncio.sleep(WAIT)
            while self._queue and len(batch) < self._max_batch:
                waiting = self._queue[0]
                if batch and pixels + waiting.pixels > BATCH_PIXELS:
                    break
                self._queue.popleft()
                if not waiting.found.done():
                    batch.append(waiting)
                    pixels += waiting.pixels
        return batch


def _settle(future: "asyncio.Future[Found]", outcome: Found | Exception) -> None:
    """Give a future its outcome, where nobody has given it up."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
