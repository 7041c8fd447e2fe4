"""Embeddings in, verification report out: every variant of the protocol on every pair, joined by image name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from facegm.errors import FacegmError
from facegm.eval.baseline import raw_pixels
from facegm.eval.metrics import Roc, TrueAcceptRate, roc, true_accept_rate
from facegm.eval.pairs import Pairs
from facegm.eval.protocol import Verification, verify
from facegm.eval.scores import PCA_64, STANDARD_VARIANTS

FALSE_ACCEPT_BOUNDS = (1e-1, 1e-2, 1e-3)

FaceOf = Callable[[str], UInt8[np.ndarray, "height width 3"]]
"""Gives the aligned face (RGB, 0 to 255) of an image name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationReport:
    """All results of one model on one set of pairs."""

    pairs: Pairs
    verifications: tuple[Verification, ...]
    """The standard variants, the primary one first."""
    baseline: Verification | None
    """Raw pixels in place of embeddings, under the primary variant; None where no faces were given."""
    fallback_images: tuple[str, ...] = ()
    """Images of the pairs whose face was not found, so that a fallback crop was scored."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the caller tells about model and run, shown as it is."""
    note: str = ""
    """One line that readers must see beside the numbers, such as `synthetic identities`."""

    @property
    def primary(self) -> Verification:
        """The variant whose accuracy is the headline."""
        return self.verifications[0]

    def roc(self) -> Roc:
        """ROC of the primary variant's out-of-fold distances."""
        return roc(self.primary.distances, self.pairs.same)

    def true_accept_rates(self) -> tuple[TrueAcceptRate, ...]:
        """TAR of the primary variant at each false accept rate of the protocol."""
        return tuple(true_accept_rate(self.primary.distances, self.pairs.same, far) for far in FALSE_ACCEPT_BOUNDS)

    def summary(self) -> str:
        """The results as a few lines of plain text."""
        rows = [*self.verifications, *([] if self.baseline is None else [self.baseline])]
        curve = self.roc()
        lines = [
            f"{len(self.pairs):,} pairs in {len(self.primary.fold_accuracy)} folds, {len(self.pairs.images):,} images, "
            f"{len(self.fallback_images):,} of them fallback crops",
            *(f"  {row.variant.name:<32} {row.accuracy:8.2%} ± {row.standard_error:.2%}" for row in rows),
            f"{self.primary.variant.name}: AUC {curve.area:.4f}, EER {curve.equal_error_rate:.2%}, "
            f"oracle accuracy {self.primary.oracle_accuracy:.2%}",
            *(f"  TAR at FAR {tar.false_accept_bound:g}: {tar}" for tar in self.true_accept_rates()),
        ]
        return "\n".join([*lines, f"Note: {self.note}"] if self.note else lines)


def evaluate_lfw(
    pairs: Pairs,
    names: Sequence[str],
    embeddings: Float[np.ndarray, "images dim"],
    *,
    face_of: FaceOf | None = None,
    fallback_images: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    note: str = "",
) -> VerificationReport:
    """Run every standard variant, and the raw-pixel baseline, on all pairs.

    Args:
        pairs: the pairs and their folds; each of them is scored.
        names: image name of every embedding, in the pairs' spelling and any order; images in no pair may be among them.
        embeddings: one row per name, mirror images already summed, not normalised.
        face_of: aligned face of an image name; None leaves the raw-pixel baseline out.
        fallback_images: images whose face was not found and that were cropped in another way.
        facts: what to say about model and run.
        note: one line to show beside the numbers.

    Raises:
        FacegmError: images of the pairs have no embedding, a name comes twice, or `verify` finds fault.
    """
    row_a, row_b = rows_of_pairs(pairs, names, len(embeddings))
    left, right = embeddings[row_a], embeddings[row_b]
    return VerificationReport(
        pairs=pairs,
        verifications=tuple(
            verify(left, right, pairs.same, pairs.fold, variant=variant) for variant in STANDARD_VARIANTS
        ),
        baseline=None if face_of is None else _baseline(pairs, face_of),
        fallback_images=tuple(sorted({*fallback_images} & {*pairs.images})),
        facts=dict(facts or {}),
        note=note,
    )


def rows_of_pairs(pairs: Pairs, names: Sequence[str], embeddings: int) -> tuple[list[int], list[int]]:
    """Row of every pair's left and right image, found by name.

    Args:
        pairs: the pairs.
        names: image name of every embedding.
        embeddings: number of embeddings.

    Raises:
        FacegmError: images of the pairs have no embedding, or a name comes twice.
    """
    row_of = {name: row for row, name in enumerate(names)}
    if len(names) != embeddings or len(row_of) != len(names):
        raise FacegmError(
            f"embeddings: {embeddings} rows for {len(names)} names, {len(row_of)} of them distinct; "
            "expected one row for each name"
        )
    missing = [image for image in pairs.images if image not in row_of]
    if missing:
        raise FacegmError(
            f"embeddings: {len(missing)} of the {len(pairs.images)} images that the pairs name have none: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; every pair must be scored"
        )
    return [row_of[name] for name in pairs.names_a], [row_of[name] for name in pairs.names_b]


def _baseline(pairs: Pairs, face_of: FaceOf) -> Verification:
    """Score raw pixels as the primary variant scores embeddings."""
    images = pairs.images
    pixels = np.concatenate([raw_pixels(face_of(image)[None]) for image in images])
    row_a, row_b = rows_of_pairs(pairs, images, len(pixels))
    variant = replace(PCA_64, name="raw grey pixels 32x32, PCA 64")
    return verify(pixels[row_a], pixels[row_b], pairs.same, pairs.fold, variant=variant)
