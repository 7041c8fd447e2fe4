"""The alignment of a whole data set: every photo to a face in the store or a reason in the manifest."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from facegm.align.config import AlignConfig
from facegm.align.detector import STAGE_THRESHOLDS
from facegm.align.engines import WorkerPool
from facegm.align.face import FACE_SIZE, FALLBACK_FRACTION, TEMPLATE
from facegm.align.finder import BATCH
from facegm.align.networks import Runtime, require_runtime
from facegm.align.prealigned import require_aligned
from facegm.align.proposals import PYRAMID_FACTOR
from facegm.align.worker import AlignJob
from facegm.data.progress import Progress
from facegm.data.readers.photo import Photo
from facegm.data.readers.source import PhotoSource, find_photos, in_order
from facegm.errors import FacegmError
from facegm.store.format import is_store, read_settings
from facegm.store.writer import StoreSummary, StoreWriter


@dataclass(frozen=True, kw_only=True)
class AlignmentSummary:
    """What became of the photos of a source."""

    store: StoreSummary
    remarks: tuple[str, ...]
    """What the source holds beside photos, and doubts about whose faces they show."""


def align_photos(
    source: Path, output: Path, config: AlignConfig, *, photos: Iterable[Photo] | None = None
) -> AlignmentSummary:
    """Align all photos of a source into a store, or bring the one that is there into step with them.

    Args:
        source: folder tree, list file, tar shards, record file or LMDB, see `facegm.data.readers.source.find_photos`.
        output: the store's folder, made when missing; an interrupted alignment goes on there.
        config: the options.
        photos: the photos of the source to align; None for all that are found in it.

    Raises:
        FacegmError: the source is unusable, or `output` is something else, or a store of other photos or options.
    """
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise FacegmError(f"{output}: lies inside the photos' own folder {source}; give an --output outside of it")
    if photos is None:
        found = find_photos(source, identity_level=config.identity_level)
    else:
        found = PhotoSource(photos=in_order(photos), remarks=())
    if config.is_aligned:
        require_aligned(source, found.photos)
    runtime = _runtime(output, config)
    with StoreWriter(
        output,
        found.photos,
        store_settings(source, config, runtime),
        batch=BATCH,
        shard=config.shard,
        remove_missing=config.remove_missing,
    ) as store:
        with (
            Progress("align", store.done + sum(map(len, store.waiting)), "photos", done=store.done) as progress,
            WorkerPool(
                store.waiting,
                AlignJob(config=config, runtime=runtime),
                engine=config.engine,
                workers=config.workers,
            ) as workers,
        ):
            try:
                for results in workers:
                    store.add(results)
                    progress.update(len(results))
            except BaseException:
                for results in workers.finished():
                    store.add(results)
                raise
        summary = store.summary()
    return AlignmentSummary(store=summary, remarks=found.remarks)


def store_settings(source: Path, config: AlignConfig, runtime: Runtime) -> dict[str, object]:
    """What `store.json` says of how faces are made: with other settings a store is not gone on with."""
    detection: dict[str, object] = {"detector": "none: aligned already"}
    if not config.is_aligned:
        detection = {
            "detector": "facenet-pytorch MTCNN",
            "minimum_face": config.minimum_face,
            "stage_thresholds": list(STAGE_THRESHOLDS),
            "pyramid_factor": PYRAMID_FACTOR,
            "runtime": runtime,
            "choice": "largest central",
            **asdict(config.choice),
            "on_missing": config.on_missing,
            "fallback_fraction": FALLBACK_FRACTION,
        }
    return {
        "source": str(source.resolve()),
        "size": FACE_SIZE,
        "color": "RGB",
        "template": TEMPLATE.tolist(),
        **detection,
        **asdict(config.store_format),
    }


def _runtime(output: Path, config: AlignConfig) -> Runtime:
    """What computes the detector: what is asked for, else what the store was begun with, else a GPU if there is one."""
    stored = read_settings(output) if is_store(output) else {}
    runtime: Runtime = config.runtime or stored.get("runtime") or ("cuda" if torch.cuda.is_available() else "cpu")
    if config.engine == "local" and not config.is_aligned:
        require_runtime(runtime)
    return runtime
