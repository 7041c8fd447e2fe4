"""Work that is done in a thread, one piece ahead of whoever makes use of it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
