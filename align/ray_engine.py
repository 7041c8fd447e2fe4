"""Workers that are actors of a Ray cluster (the extra `facegm[ray]`).

Plain actors, because the actor pools of Ray Data begin a killed actor anew for ever and do not tell which photo it had.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic

from facegm.align.local_engine import WorkerDied
from facegm.align.photo_job import Groups, Outcome, PhotoJob
from facegm.errors import FacegmError


@contextmanager
def ray_session(workers: int, *, uses_gpu: bool) -> Iterator[float]:
    """Join the cluster that $RAY_ADDRESS names, or begin one on this machine; one that was begun here is ended.

    Yields:
        The share of a GPU that each worker shall have.

    Raises:
        FacegmError: Ray is not installed, or cannot begin, or has no GPU where workers need one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use over the network
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns of actors that were killed on purpose
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise FacegmError("the engine ray needs Ray: pip install 'facegm[ray]'") from error
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield share_of_gpu(workers, int(resources.get("GPU", 0))) if uses_gpu else 0.0
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise FacegmError(f"the engine ray has failed: {error}") from error
    finally:
        if is_ours:
            ray.shutdown()


def share_of_gpu(workers: int, gpus: int) -> float:
    """The share with which all workers find room at once, whichever GPU each is on."""
    if not gpus:
        raise FacegmError("cuda: the Ray cluster has no GPU; use the runtime cpu or openvino, and the device cpu")
    # Ray counts by ten-thousandths.
    return math.floor(10_000 / math.ceil(workers / gpus)) / 10_000


class _Actor:
    """What runs in the cluster. Ray itself makes it: errors of its making are those of its first call instead."""

    def __init__(self, job: PhotoJob[Any]) -> None:
        self._job = job

    def begin(self) -> None:
        self._processor = self._job.begin(0)  # Ray shows an actor no other GPU than its own

    def process(self, groups: Groups) -> Iterator[list[Any]]:
        yield from self._processor.process(groups)

    def check(self) -> None:
        self._processor.check()


class RayWorker(Generic[Outcome]):
    """A worker process of the cluster; the photos' paths lead to the same files on all its machines.

    Args:
        job: what it does.
        gpus: the share of a GPU that it has.
    """

    def __init__(self, job: PhotoJob[Outcome], gpus: float) -> None:
        import ray

        actors: Any = ray.remote(_Actor)
        # No core is kept for one: that of a dead worker might go to another, and its successor wait for it for ever.
        resources = {"num_cpus": 0, "num_gpus": gpus} if gpus else {}
        actors = actors.options(max_restarts=0, scheduling_strategy="SPREAD", **resources)
        self._actor = actors.remote(job)

    def wait_until_ready(self) -> None:
        """See `facegm.align.local_engine.Worker`."""
        self._get(self._actor.begin.remote())

    def process(self, groups: Groups) -> Iterator[list[Outcome]]:
        """See `facegm.align.local_engine.Worker`."""
        # The processes of a cluster are not in this one's working folder.
        absolute = [[replace(photo, path=os.path.abspath(photo.path)) for photo in group] for group in groups]
        for outcomes in self._actor.process.options(num_returns="streaming").remote(absolute):
            yield self._get(outcomes)

    def check(self) -> None:
        """See `facegm.align.local_engine.Worker`."""
        self._get(self._actor.check.remote())

    def kill(self) -> None:
        """See `facegm.align.local_engine.Worker`."""
        import ray

        ray.kill(self._actor)

    def close(self) -> None:
        """See `facegm.align.local_engine.Worker`; Ray does it."""

    def _get(self, result: Any) -> Any:
        """What a call returns.

        Raises:
            WorkerDied: the process has ended, by itself or by Ray for want of memory.
            FacegmError: the worker's, or Ray's.
        """
        import ray
        import ray.exceptions

        try:
            return ray.get(result)
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            raise WorkerDied(str(error).splitlines()[0]) from error
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, FacegmError) else RuntimeError(str(error)) from error
        except ray.exceptions.RayError as error:
            raise FacegmError(f"the engine ray has failed: {error}") from error
