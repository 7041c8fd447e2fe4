"""Where the work is done: by worker processes of this machine, or of a Ray cluster. The results are the same."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process

from facegm.align.config import AlignConfig
from facegm.align.networks import Runtime
from facegm.align.worker import Aligner, Result
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError

Groups = Sequence[Sequence[Photo]]

SPAN = 2
"""Groups of photos that a worker takes at a time: enough to decode one while another is looked at."""


def align_groups(groups: Groups, config: AlignConfig, runtime: Runtime) -> Generator[list[Result], None, None]:
    """Align groups of photos; results come span by span, in the photos' order, whichever worker is the first.

    Raises:
        FacegmError: a worker was killed, or the runtime or Ray is not there.
    """
    spans = [groups[start : start + SPAN] for start in range(0, len(groups), SPAN)]
    if not spans:
        return
    if config.engine == "ray":
        from facegm.align.ray_engine import align_spans_by_ray

        yield from align_spans_by_ray(spans, config, runtime)
    else:
        yield from _align_spans(spans, config, runtime)


_options: tuple[AlignConfig, Runtime] | None = None
_aligner: Aligner | None = None


def _start_worker(config: AlignConfig, runtime: Runtime) -> None:
    global _options
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _options = config, runtime


def _end_with_parent() -> None:
    """A worker waits for work for ever, even when its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _align_span(span: Groups) -> list[Result]:
    global _aligner
    if _aligner is None:  # made here and not at the start, where an error would not reach the parent
        assert _options is not None
        _aligner = Aligner(*_options)
    return _aligner.align(span)


def _align_spans(spans: Sequence[Groups], config: AlignConfig, runtime: Runtime) -> Iterator[list[Result]]:
    workers = min(config.workers, len(spans))
    # Spawned, because a process that has used torch's threads must not be forked.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(config, runtime)
    ) as pool:

        def submit(span: Groups) -> Future[list[Result]]:
            return pool.submit(_align_span, span)

        try:
            remaining = iter(spans)
            running = deque(submit(span) for span in islice(remaining, 3 * workers))
            while running:
                yield running.popleft().result()
                if (span := next(remaining, None)) is not None:
                    running.append(submit(span))
        except BrokenProcessPool as error:
            raise FacegmError(
                "an alignment worker was killed, perhaps for want of memory; run again to go on, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
