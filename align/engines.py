"""Where the work is done: by worker processes of this machine, or of a Ray cluster. The results are the same.

One thread here for each worker hands it spans of groups of photos and takes their outcomes over, so that it is known
what a worker was busy with when it died. Its photos are then tried again in ever smaller company, and one that kills
every worker is recorded as failed; neither the other photos nor the other workers notice.
"""

import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from queue import Empty, SimpleQueue
from typing import Any, Generic, Literal, NamedTuple

import torch

from facegm.align.local_engine import LocalWorker, Worker, WorkerDied
from facegm.align.photo_job import Groups, Outcome, PhotoJob
from facegm.data.machine import default_workers
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError

SPAN = 2
"""Groups of photos that a worker takes at a time: enough to decode one while another is looked at."""
SPANS_AHEAD = 3
"""Spans for each worker that are handed out, or whose outcomes wait for those of the photos before them."""
GPU_WORKERS = 3
"""Workers that share a GPU where their number is not given: one computes there while others decode and warp."""
KILLED_IN_A_ROW = 5
"""Photos that kill a worker one after the other before it is asked whether it is the photos."""

EngineName = Literal["local", "ray"]
"""Worker processes of this machine, or of a Ray cluster."""


class WorkerPool(Generic[Outcome]):
    """The work on groups of photos: iterate to get the outcomes of those looked at together, in the photos' order.

    A context manager; at its end workers are ended, wherever they are. After an interruption `finished` gives what is
    done and was not given yet.

    Args:
        groups: the photos, as they are looked at together.
        job: what is done with them.
        engine: where the workers are.
        workers: how many; None for as many as there is room for.

    Raises:
        FacegmError: when iterated or begun: workers cannot start, or what the job needs or Ray is not there.
    """

    def __init__(
        self, groups: Groups, job: PhotoJob[Outcome], *, engine: EngineName = "local", workers: int | None = None
    ) -> None:
        self._spans = deque(enumerate(groups[start : start + SPAN] for start in range(0, len(groups), SPAN)))
        self._count = len(self._spans)
        self._job, self._engine, self._workers = job, engine, workers
        self._handed_out: SimpleQueue[tuple[int, Groups] | None] = SimpleQueue()
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._waiting: defaultdict[int, deque[list[Outcome]]] = defaultdict(deque)
        """Outcomes by span, that are to be given once those before them are."""
        self._threads: list[_WorkerThread[Outcome]] = []
        self._opened = ExitStack()

    def __enter__(self) -> "WorkerPool[Outcome]":
        if self._spans:
            number = min(self._workers or number_of_workers(uses_gpu=self._job.uses_gpu), self._count)
            self._threads = [
                _WorkerThread(begin, self._job, self._handed_out, self._events) for begin in self._ways_to_begin(number)
            ]
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        self._opened.close()

    def __iter__(self) -> Iterator[list[Outcome]]:
        for _ in range(SPANS_AHEAD * len(self._threads)):
            self._hand_out()
        complete = set()
        for span in range(self._count):
            while self._waiting[span] or span not in complete:
                if self._waiting[span]:
                    yield self._waiting[span].popleft()
                    continue
                event = self._events.get()
                if event.error is not None:
                    raise event.error
                if event.outcomes is None:
                    complete.add(event.span)
                else:
                    self._waiting[event.span].append(event.outcomes)
            del self._waiting[span]
            self._hand_out()

    def finished(self) -> Iterator[list[Outcome]]:
        """End the workers at once, and give all outcomes that are there and were not given; in order, but with gaps."""
        self._end()
        with suppress(Empty):
            while True:
                event = self._events.get_nowait()
                if event.outcomes is not None:
                    self._waiting[event.span].append(event.outcomes)
        for span in sorted(self._waiting):
            yield from self._waiting.pop(span)

    def _hand_out(self) -> None:
        if self._spans:
            self._handed_out.put(self._spans.popleft())

    def _end(self) -> None:
        for thread in self._threads:
            thread.stop()
        for _ in self._threads:
            self._handed_out.put(None)
        end = time.monotonic() + 1
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))

    def _ways_to_begin(self, number: int) -> list[Callable[[], Worker[Outcome]]]:
        """For each worker, how it is begun, at first and after its death."""
        job = self._job
        if self._engine == "ray":
            from facegm.align.ray_engine import RayWorker, ray_session

            share = self._opened.enter_context(ray_session(number, uses_gpu=job.uses_gpu))
            return [lambda: RayWorker(job, share)] * number
        # Spawned, because a process that has used torch's threads must not be forked.
        context, gpus = get_context("spawn"), gpus_of_workers(number, torch.cuda.device_count())
        return [lambda gpu=gpu: LocalWorker(context, job, gpu) for gpu in gpus]  # type: ignore[misc]


def number_of_workers(*, uses_gpu: bool) -> int:
    """How many workers there are where nothing else is said."""
    most = GPU_WORKERS * torch.cuda.device_count() if uses_gpu else 0
    return min(default_workers(), most or default_workers())


def gpus_of_workers(workers: int, gpus: int) -> list[int]:
    """The number of the GPU that each worker has, one after the other."""
    return [worker % max(1, gpus) for worker in range(workers)]


class _Event(NamedTuple):
    """What a thread tells: more outcomes of a span, or, without any, that it has no more; or an error."""

    span: int = -1
    outcomes: list[Any] | None = None
    error: BaseException | None = None


class _WorkerThread(threading.Thread, Generic[Outcome]):
    """Keeps one worker busy, and begins another in its place when it dies."""

    def __init__(
        self,
        begin: Callable[[], Worker[Outcome]],
        job: PhotoJob[Outcome],
        spans: "SimpleQueue[tuple[int, Groups] | None]",
        events: "SimpleQueue[_Event]",
    ) -> None:
        super().__init__(daemon=True)
        self._begin, self._job, self._spans, self._events = begin, job, spans, events
        self._worker: Worker[Outcome] | None = None
        self._is_stopped = False
        self._killed_in_a_row: list[Photo] = []

    def stop(self) -> None:
        """Kill the worker, and begin none any more."""
        self._is_stopped = True
        if (worker := self._worker) is not None:
            worker.kill()

    def run(self) -> None:
        # Ctrl-C is the main thread's to handle; processes that are begun here inherit that they do not hear of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._ready_worker()  # before a span is taken, which another might begin sooner
            while (span := self._spans.get()) is not None and not self._is_stopped:
                for outcomes in self._process(span[1]):
                    self._events.put(_Event(span[0], outcomes))
                self._events.put(_Event(span[0]))
        except BaseException as error:
            if not self._is_stopped:
                self._events.put(_Event(error=error))
        finally:
            self._discard_worker()

    def _process(self, groups: Groups, deaths: int = 0) -> Iterator[list[Outcome]]:
        """Have photos looked at, after so many workers have died of them: of a span, a group, and of a photo alone."""
        received = 0
        try:
            for outcomes in self._ready_worker().process(groups):
                received += len(outcomes)
                self._killed_in_a_row.clear()
                yield outcomes
            return
        except WorkerDied:
            self._discard_worker()
            if self._is_stopped:
                raise
        rest = _without_first(groups, received)
        if deaths == 0:
            parts: list[Groups] = [[group] for group in rest]
        elif deaths <= 2:
            parts = [[[photo]] for group in rest for photo in group]
        else:
            for photo in (photo for group in rest for photo in group):
                self._note_killing(photo)
                yield [self._job.lost(photo)]
            return
        for part in parts:
            yield from self._process(part, deaths + 1)

    def _note_killing(self, photo: Photo) -> None:
        self._killed_in_a_row.append(photo)
        if len(self._killed_in_a_row) < KILLED_IN_A_ROW:
            return
        first = self._killed_in_a_row[0]
        self._killed_in_a_row.clear()
        try:
            self._ready_worker().check()
        except WorkerDied as error:
            raise FacegmError(
                f"workers are killed by all photos from {first.key} to {photo.key}, and by a plain picture: "
                "memory is short; run again to go on, with fewer --workers or more memory"
            ) from error

    def _ready_worker(self) -> Worker[Outcome]:
        if self._worker is None:
            self._worker = self._begin()
            if self._is_stopped:  # perhaps too early to see this worker
                self._worker.kill()
            try:
                self._worker.wait_until_ready()
            except WorkerDied as error:
                if self._is_stopped:
                    raise
                raise FacegmError(
                    f"workers cannot start ({error}): perhaps memory is short; try fewer --workers. A script that "
                    "aligns or embeds photos has to do so under `if __name__ == '__main__'`"
                ) from error
        return self._worker

    def _discard_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.close()
        self._worker = None


def _without_first(groups: Groups, count: int) -> Groups:
    """Groups of photos without the first `count` photos."""
    rest = []
    for group in groups:
        if count < len(group):
            rest.append(group[count:])
        count = max(0, count - len(group))
    return rest
