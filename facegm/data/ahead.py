"""Work that is done in threads, ahead of whoever makes use of it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def done_ahead(works: Sequence[Callable[[], Value]]) -> Iterator[Value]:
    """What works give, each of which is done in a thread while the one before it is made use of."""
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(work) for work in works[:1]]
        for following in (*works[1:], None):
            if not waiting:
                return
            found = waiting.pop().result()
            if following is not None:
                waiting.append(thread.submit(following))
            yield found


def made_ahead(values: Iterator[Value], *, is_alone: Callable[[Value], bool]) -> Iterator[Value]:
    """Yield values while a thread makes the next one; never more than one ahead, so that memory is bounded.

    Args:
        values: made as they are asked for.
        is_alone: whether a value is so large that the next one must not be made before this one has been made use of.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            waits = is_alone(value)
            if not waits:
                coming = thread.submit(next, values, None)
            yield value
            del value
            if waits:
                coming = thread.submit(next, values, None)


def done_together(
    work: Callable[[Item], Value],
    items: Iterator[Item],
    *,
    threads: int,
    is_alone: Callable[[Item], bool],
    begin: Callable[[], None],
) -> Iterator[Value]:
    """Yield what work gives for each item, in their order, of as many items at a time as there are threads.

    Args:
        work: what is done, in any thread.
        items: taken as threads become free.
        threads: how many; with one, work is done where its result is asked for.
        is_alone: whether an item is so large that nothing else must be done meanwhile.
        begin: what each thread does first.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        coming: deque[Future[Value]] = deque()
        for item in items:
            alone = is_alone(item)
            if not alone:
                coming.append(pool.submit(work, item))
            while len(coming) > (0 if alone else threads):
                yield coming.popleft().result()
            if alone:
                yield work(item)
            del item
        while coming:
            yield coming.popleft().result()
