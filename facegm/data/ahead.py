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
