"""Protects work that is done ahead in threads: results in their order, bounded memory, large pieces alone."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from facegm.data.ahead import done_together
from facegm.embedding.processes import compute_alone

PATIENCE = 60
TASKS = Path("/proc/self/task")
"""A folder for each of this process's threads, where the system tells them."""
LARGE = 100


def nothing() -> None:
    pass


def is_large(item: int) -> bool:
    return item >= LARGE


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    """Although the first of them take longest."""

    def work(item: int) -> int:
        time.sleep(0.01 * (item % 4 == 0))
        return item * item

    found = done_together(work, iter(range(20)), threads=threads, is_alone=is_large, begin=nothing)
    assert [*found] == [item * item for item in range(20)]


def test_items_are_worked_on_together_and_not_all_taken() -> None:
    together, taken = threading.Barrier(3), 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(30):
            taken += 1
            yield item

    def work(item: int) -> int:
        together.wait(PATIENCE)  # for three at a time, or for ever
        return item

    found = done_together(work, items(), threads=3, is_alone=is_large, begin=nothing)
    assert next(found) == 0
    assert taken <= 4
    assert [*found] == [*range(1, 30)]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_item_is_worked_on_alone(threads: int) -> None:
    busy, lock = 0, threading.Lock()
    beside: list[int] = []

    def work(item: int) -> int:
        nonlocal busy
        with lock:
            busy += 1
        time.sleep(0.01)
        with lock:
            if is_large(item):
                beside.append(busy)
            busy -= 1
        return item

    given = [1, 2, 3, LARGE, 4, 5, LARGE + 1, LARGE + 2, 6]
    assert [*done_together(work, iter(given), threads=threads, is_alone=is_large, begin=nothing)] == given
    assert beside == [1, 1, 1]


def test_what_work_raises_is_raised_where_its_result_is_asked_for() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise OSError("no such face")
        return item

    found = done_together(work, iter(range(20)), threads=3, is_alone=is_large, begin=nothing)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="no such face"):
        next(found)


def test_a_thread_that_computes_alone_leaves_others_their_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=compute_alone, initargs=(2,)) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not tell a process's threads")
def test_a_thread_that_computes_alone_has_no_others_for_matrix_products() -> None:
    """MKL has a number of its own; threads that it has for one end with it, at a time that nobody knows."""
    factor = torch.ones(700, 700)

    def begun_for_a_product() -> int:
        before = {*TASKS.iterdir()}
        torch.mm(factor, factor)
        return len({*TASKS.iterdir()} - before)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=torch.get_num_threads) as pool:  # which sets torch's number for MKL too
            assert pool.submit(begun_for_a_product).result() == 1
        with ThreadPoolExecutor(1, initializer=compute_alone, initargs=(2,)) as pool:
            assert pool.submit(begun_for_a_product).result() == 0
    finally:
        torch.set_num_threads(before)
