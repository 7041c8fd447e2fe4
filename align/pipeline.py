"""The alignment of a whole data set: every photo to a face in the store or a reason in the manifest."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from facegm.align.config import AlignConfig
from facegm.align.engines import Alignment
from facegm.align.growing_store import GrowingStore
from facegm.align.worker import BATCH
from facegm.data.find_photos import Photo, find_photos, in_order
from facegm.data.progress import Progress


def align_photos(
    source: Path, output: Path, config: AlignConfig, *, photos: Iterable[Photo] | None = None
) -> Counter[str]:
    """Align all photos of a source into a store; photos that the store knows already are passed over.

    Args:
        source: folder tree, list file, tar shards or record file, see `facegm.data.find_photos.find_photos`.
        output: the store's folder, made when missing; an interrupted alignment goes on there.
        config: the options.
        photos: the photos of the source to align; None for all that are found in it.

    Returns:
        How many photos of the store (with `config.shard`: of this job) have each status, and under `failed: <reason>`
        how many failed for each reason.

    Raises:
        FacegmError: the source is unusable, or `output` is something else, or a store of other photos or options.
    """
    found = find_photos(source) if photos is None else in_order(photos)
    groups = [found[start : start + BATCH] for start in range(0, len(found), BATCH)]
    with GrowingStore(output, source, groups, config) as store:
        done, waiting = store.done, sum(map(len, store.waiting))
        with (
            Progress("align", done + waiting, "photos", done=done) as progress,
            Alignment(store.waiting, config, store.runtime) as alignment,
        ):
            try:
                for results in alignment:
                    store.add(results)
                    progress.update(len(results))
            except BaseException:
                for results in alignment.finished():
                    store.add(results)
                raise
    return store.counts()
