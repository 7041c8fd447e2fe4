"""Identification: who of a gallery is on a probe, closed-set by rank, and open-set among probes of unknown people.

The distance of a probe to a template of the gallery is 1 - cosine. Galleries are kept apart: a threshold comes from the
same gallery that it is applied to, and is passed by the nearest template of a probe or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

from facegm.data.progress import Progress
from facegm.embedding.aligned_embedder import normalised
from facegm.errors import FacegmError
from facegm.eval.rates import ROUGH, Rate, allowed_errors

NO_MATE = -1
"""In place of a template's number, of a probe whose person is not in the gallery."""
ROUNDING = 1e-6
"""Templates that are further from a probe than its mate by no more than this are as near: float32 can be off by it."""
_BLOCK = 1 << 24
"""Distances that are looked at together: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class OpenSetRate:
    """True positive identification rate at a bound on the false positive identification rate (TPIR at FPIR)."""

    false_positive_bound: float
    """The false positive identification rate asked for."""
    threshold: float
    """Templates at a smaller distance are candidates: the largest one that keeps to the bound."""
    false_positives: Rate
    """FPIR: share of the non-mated probes that have a candidate."""
    identified: Rate
    """TPIR = 1 - FNIR: share of the mated probes whose mate is a candidate and ranks high enough."""

    @property
    def allowed(self) -> int:
        """Number of false positives that the bound allows."""
        return allowed_errors(self.false_positive_bound, self.false_positives.trials)

    @property
    def is_rough(self) -> bool:
        """Whether so few false positives are allowed that other probes would give another threshold."""
        return self.allowed < ROUGH

    @property
    def rate(self) -> float | None:
        """TPIR; None, not measurable, where the bound allows no false positive among so few non-mated probes."""
        return self.identified.value if self.allowed else None

    def describe(self) -> dict[str, object]:
        """Every number, for JSON."""
        return {
            "false_positive_bound": self.false_positive_bound,
            "rate": self.rate,
            "interval": [*self.identified.interval] if self.allowed else None,
            "is_rough": self.is_rough,
            "threshold": self.threshold,
            "false_positives": self.false_positives.count,
            "false_positive_interval": [*self.false_positives.interval],
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """What a gallery says of probes."""

    templates: int
    """In the gallery, one for each person."""
    rank: Int64[np.ndarray, " mated"]
    """Of each mated probe's mate, from 1 on. A template that is as near as the mate counts as nearer."""
    mate: Float32[np.ndarray, " mated"]
    """Distance of each mated probe to its mate."""
    nearest: Float32[np.ndarray, " non_mated"]
    """Distance of each non-mated probe to the nearest template."""

    def closed_set(self, rank: int) -> Rate:
        """Share of the mated probes whose mate is among so many nearest templates."""
        return Rate(count=int(np.count_nonzero(self.rank <= rank)), trials=len(self.rank))

    def cumulative_match(self, ranks: int) -> Float64[np.ndarray, " ranks"]:
        """The closed-set rate of each rank from 1 on: the cumulative match characteristic (CMC)."""
        return np.bincount(np.minimum(self.rank, ranks + 1), minlength=ranks + 2)[1:-1].cumsum() / len(self.rank)

    def open_set(self, false_positive_bound: float, *, rank: int = 1) -> OpenSetRate:
        """TPIR at FPIR.

        A non-mated probe is a false positive where its nearest template is a candidate. A mated probe counts where its
        mate is one and has at most a rank; nothing else makes up for a mate that others outrank.

        Args:
            false_positive_bound: on the FPIR, below 1.
            rank: of the mate at most.

        Raises:
            FacegmError: there are no non-mated probes.
        """
        if not len(self.nearest):
            raise FacegmError("identification: no non-mated probes, from which open-set thresholds come")
        threshold = np.sort(self.nearest)[allowed_errors(false_positive_bound, len(self.nearest))]
        identified = (self.rank <= rank) & (self.mate < threshold)
        return OpenSetRate(
            false_positive_bound=false_positive_bound,
            threshold=float(threshold),
            false_positives=_share(self.nearest < threshold),
            identified=_share(identified),
        )


def search(
    gallery: Float[np.ndarray, "templates dim"],
    probes: Float[np.ndarray, "probes dim"],
    mate: Int[np.ndarray, " probes"],
    *,
    progress: Progress | None = None,
) -> Search:
    """Compare every probe with every template, in blocks, in float32.

    Args:
        gallery: template of each person, of any length.
        probes: an embedding of each, of any length.
        mate: number of the template of each probe's person, or `NO_MATE`.
        progress: told how many probes are done.

    Raises:
        FacegmError: NaN or infinity among the embeddings.
    """
    for name, vectors in (("gallery", gallery), ("probes", probes)):
        if not np.isfinite(vectors).all():
            raise FacegmError(f"{name}: NaN or infinity among the embeddings; look at the model and at the images")
    templates = normalised(gallery.astype(np.float32))
    rank = np.empty(len(probes), np.int64)
    distance = np.empty(len(probes), np.float32)
    for block, cosines in _cosines(templates, probes):
        has_mate = mate[block] != NO_MATE
        best = cosines.max(axis=1)
        own = np.take_along_axis(cosines, np.where(has_mate, mate[block], 0)[:, None], axis=1)
        distance[block] = 1 - np.where(has_mate, own[:, 0], best)
        rank[block] = np.count_nonzero(cosines >= own - np.float32(ROUNDING), axis=1)
        if progress is not None:
            progress.update(len(cosines))
    is_mated = mate != NO_MATE
    return Search(templates=len(gallery), rank=rank[is_mated], mate=distance[is_mated], nearest=distance[~is_mated])


def _cosines(
    templates: Float32[np.ndarray, "templates dim"], probes: Float[np.ndarray, "probes dim"]
) -> Iterator[tuple[slice, Float32[np.ndarray, "block templates"]]]:
    size = max(1, _BLOCK // len(templates))
    for start in range(0, len(probes), size):
        block = slice(start, start + size)
        yield block, normalised(probes[block].astype(np.float32)) @ templates.T


def _share(outcome: Bool[np.ndarray, " trials"]) -> Rate:
    return Rate(count=int(np.count_nonzero(outcome)), trials=len(outcome))
