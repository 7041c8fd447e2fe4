"""Alignment by the processes of a Ray cluster, through Ray Data (the extra `facegm[ray]`)."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from facegm.align.config import AlignConfig
from facegm.align.networks import Runtime
from facegm.align.worker import Aligner, Result
from facegm.data.find_photos import Photo
from facegm.errors import FacegmError


class _SpanAligner:
    """One worker process of Ray Data."""

    def __init__(self, config: AlignConfig, runtime: Runtime) -> None:
        self._aligner = Aligner(config, runtime)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"results": self._aligner.align(row["span"])}


def align_spans_by_ray(
    spans: Sequence[Sequence[Sequence[Photo]]], config: AlignConfig, runtime: Runtime
) -> Iterator[list[Result]]:
    """Align spans by `config.workers` processes of the cluster that $RAY_ADDRESS names, or of this machine.

    The photos' paths lead to the same files on all machines of the cluster.

    Raises:
        FacegmError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise FacegmError("the engine ray needs Ray: pip install 'facegm[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # the manifest is in the order of the photos
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"span": span} for span in spans], override_num_blocks=len(spans))
    aligned = rows.map(
        _SpanAligner,  # type: ignore[arg-type] # a class is called to make the function
        fn_constructor_args=(config, runtime),
        concurrency=min(config.workers, len(spans)),
        num_gpus=1 if runtime == "cuda" else None,
    )
    for row in aligned.iter_rows():
        yield row["results"]
