"""Splits of images with known people into a gallery, mated probes and non-mated probes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from facegm.embedding.aligned_embedder import normalised
from facegm.errors import FacegmError
from facegm.eval.identification.identification import NO_MATE


@dataclass(frozen=True, eq=False, kw_only=True)
class IdentificationSplit:
    """Which images make the gallery, and which are looked for in it."""

    enrolled: Int64[np.ndarray, " enrolled"]
    """Rows of the gallery's images."""
    template: Int64[np.ndarray, " enrolled"]
    """Number of the template that each of them is part of, from 0 on, one for each person in the gallery."""
    probes: Int64[np.ndarray, " probes"]
    """Rows of the probes, one image each."""
    mate: Int64[np.ndarray, " probes"]
    """Number of the template of each probe's person, or `NO_MATE`."""


def draw_split(
    people: Int64[np.ndarray, " images"], *, gallery_images: int, non_mated: float, seed: int
) -> IdentificationSplit:
    """Draw who is left out of the gallery, and which images of the others are in it.

    All images of people who are left out are non-mated probes. Of everyone else, as many images as asked for are drawn
    into the gallery, and the rest are mated probes; who has no more images than that is in the gallery with all of
    them, and makes the search no easier.

    Args:
        people: number of the person on each image.
        gallery_images: images of a person in the gallery, at least 1.
        non_mated: share of the people who are left out, 0 to below 1.
        seed: the split follows from it.

    Raises:
        FacegmError: nobody is left who has more images than go into the gallery.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(np.unique(people))
    left_out = shuffled[: round(non_mated * len(shuffled))]
    rows = rng.permutation(len(people))
    rows = rows[np.argsort(people[rows], kind="stable")]  # by person, each one's in an order drawn at random
    rows_out = np.isin(people[rows], left_out)
    known, starts, person = np.unique(people[rows[~rows_out]], return_index=True, return_inverse=True)
    is_enrolled = np.arange(len(person)) - starts[person] < gallery_images
    if is_enrolled.all():
        raise FacegmError(
            f"identification: of {len(known):,} people none has more images than the {gallery_images} for the gallery, "
            "so that none is left as a probe; take fewer, leave fewer people out, or give more images of a person"
        )
    return IdentificationSplit(
        enrolled=rows[~rows_out][is_enrolled],
        template=person[is_enrolled],
        probes=np.concatenate([rows[~rows_out][~is_enrolled], rows[rows_out]]),
        mate=np.concatenate([person[~is_enrolled], np.full(np.count_nonzero(rows_out), NO_MATE)]),
    )


def mean_templates(
    embeddings: Float[np.ndarray, "images dim"], split: IdentificationSplit
) -> Float32[np.ndarray, "templates dim"]:
    """The mean of each person's enrolled embeddings, each scaled to unit length first."""
    unit = normalised(embeddings[split.enrolled].astype(np.float32))
    sums = np.zeros((int(split.template[-1]) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, split.template, unit)
    return sums / np.bincount(split.template)[:, None].astype(np.float32)
