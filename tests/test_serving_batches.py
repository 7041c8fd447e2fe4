"""Photos of many clients looked at together: bounds and order of batches, failures, and clients who give up."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from facegm.serving.batching import BATCH_PIXELS, Batcher

Look = Callable[[Sequence[bytes]], Sequence[bytes]]


def run(look: Look, ask: Callable[[Batcher[bytes, bytes]], Coroutine[Any, Any, None]], *, max_batch: int = 4) -> None:
    async def both() -> None:
        batcher = Batcher(look, max_batch=max_batch)
        task = asyncio.create_task(batcher.run())
        try:
            await asyncio.wait_for(ask(batcher), 10)
        finally:
            task.cancel()

    asyncio.run(both())


def photos(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def test_photos_that_wait_are_looked_at_together_in_order_and_each_gets_its_own_answer() -> None:
    batches: list[list[bytes]] = []

    def look(batch: Sequence[bytes]) -> list[bytes]:
        batches.append(list(batch))
        return [b"of " + photo for photo in batch]

    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        found = await asyncio.gather(*(batcher.find(photo, 100) for photo in photos(10)))
        assert found == [b"of " + photo for photo in photos(10)]

    run(look, ask)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [photo for batch in batches for photo in batch] == photos(10)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([BATCH_PIXELS // 2] * 3, [2, 1]),
        ([BATCH_PIXELS * 3, 1, 1], [1, 2]),  # a large one alone
        ([1, BATCH_PIXELS, 1], [1, 1, 1]),
    ],
)
def test_pixels_of_a_batch_are_bounded(pixels: list[int], expected: list[int]) -> None:
    sizes: list[int] = []

    def look(batch: Sequence[bytes]) -> Sequence[bytes]:
        sizes.append(len(batch))
        return batch

    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        await asyncio.gather(*(batcher.find(b"", number) for number in pixels))

    run(look, ask)
    assert sizes == expected


def test_one_thread_looks_at_photos_and_never_the_event_loops() -> None:
    threads: set[int] = set()

    def look(batch: Sequence[bytes]) -> Sequence[bytes]:
        threads.add(threading.get_ident())
        return batch

    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        for _ in range(3):
            await asyncio.gather(*(batcher.find(b"", 1) for _ in range(6)))
        assert threading.get_ident() not in threads

    run(look, ask)
    assert len(threads) == 1


def test_a_failure_is_that_of_its_own_batch_alone() -> None:
    def look(batch: Sequence[bytes]) -> Sequence[bytes]:
        if b"0" in batch:
            raise ValueError("odd photo")
        return batch

    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        found = await asyncio.gather(*(batcher.find(photo, 1) for photo in photos(6)), return_exceptions=True)
        assert [isinstance(outcome, ValueError) for outcome in found] == [True] * 4 + [False] * 2

    run(look, ask)


def test_too_few_answers_fail_the_batch_and_do_not_hang() -> None:
    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        found = await asyncio.gather(*(batcher.find(photo, 1) for photo in photos(3)), return_exceptions=True)
        assert isinstance(found[2], ValueError)

    run(lambda batch: batch[:-1], ask)


def test_what_a_client_has_given_up_is_not_looked_at() -> None:
    seen: list[bytes] = []
    release = threading.Event()

    def look(batch: Sequence[bytes]) -> Sequence[bytes]:
        seen.extend(batch)
        release.wait(5)
        return batch

    async def ask(batcher: Batcher[bytes, bytes]) -> None:
        first = asyncio.create_task(batcher.find(b"first", 1))
        while not seen:
            await asyncio.sleep(0.001)
        given_up, kept = (asyncio.create_task(batcher.find(photo, 1)) for photo in (b"given up", b"kept"))
        await asyncio.sleep(0)
        given_up.cancel()
        first.cancel()  # also one that is being looked at
        release.set()
        assert await kept == b"kept"

    run(look, ask)
    assert seen == [b"first", b"kept"]
