"""Alignment by the processes of a Ray cluster, through Ray Data (the extra `facegm[ray]`)."""

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from facegm.align.config import AlignConfig
from facegm.align.networks import Runtime
from facegm.align.worker import Aligner, Result
from facegm.data.readers.photo import Photo
from facegm.errors import FacegmError


class _SpanAligner:
    """One worker process of Ray Data."""

    def __init__(self, config: AlignConfig, runtime: Runtime) -> None:
        self._aligner = Aligner(config, runtime)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # As bytes, because Ray would make columns of lists, and arrays of columns.
        return {"results": pickle.dumps(self._aligner.align(pickle.loads(row["span"])))}


def align_spans_by_ray(
    spans: Sequence[Sequence[Sequence[Photo]]], config: AlignConfig, runtime: Runtime
) -> Iterator[list[Result]]:
    """Align spans by `config.workers` processes of the cluster that $RAY_ADDRESS names, or of this machine.

    The photos' paths lead to the same files on all machines of the cluster.

    Raises:
        FacegmError: Ray is not installed, or a process of its could not begin or go on.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use over the network
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns on each start of what Ray Data itself does
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise FacegmError("the engine ray needs Ray: pip install 'facegm[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True  # the manifest is in the order of the photos
        context.enable_progress_bars = False
        items = [{"span": pickle.dumps(_with_absolute_paths(span))} for span in spans]
        rows = ray.data.from_items(items, override_num_blocks=len(spans))
        aligned = rows.map(
            _SpanAligner,  # type: ignore[arg-type] # a class is called to make the function
            fn_constructor_args=(config, runtime),
            compute=ray.data.ActorPoolStrategy(size=min(config.workers, len(spans))),
            num_gpus=1 if runtime == "cuda" else None,
        )
        generator: Any = iter(aligned.iter_rows())
        with closing(generator) as results:  # closed before Ray is, which its threads would start again
            for row in results:
                yield pickle.loads(row["results"])
    except ray.exceptions.RayError as error:
        raise FacegmError(f"the engine ray has failed: {error}") from error
    finally:
        if is_ours:
            ray.shutdown()


def _with_absolute_paths(span: Sequence[Sequence[Photo]]) -> list[list[Photo]]:
    """The processes of a cluster are not in this one's working folder."""
    return [[replace(photo, path=str(Path(photo.path).absolute())) for photo in group] for group in span]
