"""Identification over several splits of images into gallery and probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facegm.data.progress import Progress
from facegm.eval.identification import Search, search
from facegm.eval.identification_split import draw_split, mean_templates
from facegm.eval.labelled_embeddings import LabelledEmbeddings

RANKS = (1, 5, 10)
"""Of the closed-set rates that are reported."""
FALSE_POSITIVE_BOUNDS = (1e-1, 1e-2, 1e-3)
"""Of the open-set rates."""


@dataclass(frozen=True, kw_only=True)
class IdentificationSettings:
    """How images are split; see `facegm.eval.identification_split.draw_split`."""

    gallery_images: int = 1
    """Images of a person in the gallery."""
    non_mated: float = 0.5
    """Share of the people who are left out of it."""
    repeats: int = 5
    """Splits."""
    seed: int = 0
    """Of the first split; the others have the numbers after it."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A rate over splits, which share images, so that they differ less than sets of other people would."""

    mean: float
    standard_deviation: float | None
    """With ddof 1; None of one split."""

    def __str__(self) -> str:
        return f"{self.mean:.2%}" + ("" if self.standard_deviation is None else f" ± {self.standard_deviation:.2%}")


@dataclass(frozen=True, eq=False, kw_only=True)
class IdentificationReport:
    """All results."""

    facts: Mapping[str, str]
    settings: IdentificationSettings
    images: int
    people: int
    splits: tuple[Search, ...]

    @property
    def closed_set(self) -> dict[int, Spread | None]:
        """The share of mated probes whose mate has such a rank or a better one, by rank."""
        return {rank: _spread([split.closed_set(rank).value for split in self.splits]) for rank in RANKS}

    @property
    def open_set(self) -> dict[float, Spread | None]:
        """TPIR, the mate ranking first, by the bound on the FPIR; None where a split cannot carry it."""
        return {
            bound: _spread([split.open_set(bound).rate if len(split.nearest) else None for split in self.splits])
            for bound in FALSE_POSITIVE_BOUNDS
        }

    def summary(self) -> str:
        """A few lines of plain text: means over the splits and standard deviations."""
        first = self.splits[0]
        closed = [f"  rank {rank}: {spread}" for rank, spread in self.closed_set.items()]
        opened = [f"  TPIR at FPIR {bound:g}: {spread or 'not measurable'}" for bound, spread in self.open_set.items()]
        return "\n".join(
            [
                f"{self.images:,} images of {self.people:,} people, {len(self.splits)} splits; the first has "
                f"{first.templates:,} people in the gallery, {len(first.rank):,} mated and {len(first.nearest):,} "
                "non-mated probes",
                *closed,
                *opened,
            ]
        )


def identify(images: LabelledEmbeddings, settings: IdentificationSettings) -> IdentificationReport:
    """Search the gallery of each split for its probes.

    Args:
        images: of people, some of whom have several.
        settings: of the splits.

    Raises:
        FacegmError: there are no mated probes, or embeddings are not finite.
    """
    splits = []
    with Progress("identify", settings.repeats * len(images.people), "images") as progress:
        for seed in range(settings.seed, settings.seed + settings.repeats):
            split = draw_split(
                images.people, gallery_images=settings.gallery_images, non_mated=settings.non_mated, seed=seed
            )
            gallery = mean_templates(images.embeddings, split)
            progress.update(len(split.enrolled))
            splits.append(search(gallery, images.embeddings[split.probes], split.mate, progress=progress))
    return IdentificationReport(
        facts=images.facts,
        settings=settings,
        images=len(images.people),
        people=len(np.unique(images.people)),
        splits=tuple(splits),
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return Spread(mean=float(np.mean(known)), standard_deviation=float(np.std(known, ddof=1)) if known[1:] else None)
