"""What is to be verified: pairs of images or of templates, and how they are scored once embeddings are there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from facegm.errors import FacegmError, UsageError
from facegm.eval.embedding_files import NamedEmbeddings
from facegm.eval.evaluation import FaceOf, VerificationReport, evaluate
from facegm.eval.folds import assign_folds
from facegm.eval.groups import Attributes, person_of
from facegm.eval.joining import join
from facegm.eval.labelled_embeddings import LabelledEmbeddings
from facegm.eval.missing import drop_missing
from facegm.eval.pairs import Pairs, read_pairs
from facegm.eval.plda import Plda, fit_plda
from facegm.eval.provenance import Provenance
from facegm.eval.report import write_report
from facegm.eval.templates import Templates, read_template_pairs, read_templates, template_embeddings

RIDGE = 0.1
"""Of the PLDA that is fitted on other people, as a share of the mean variance within a person."""


class SetToVerify:
    """Pairs of images, or of templates, and how they are scored.

    Args:
        pairs: with two folds at least.
        source: what the pairs come from, for messages.
        templates: the images of each template, where the pairs are of templates.
        allow_missing: whether pairs are left out of which an image is missing.
        attributes: of images or people, for results by group.

    Raises:
        UsageError: pairs may be left out of LFW's, whose protocol scores all.
        FacegmError: there is one fold alone.
    """

    def __init__(
        self,
        pairs: Pairs,
        source: Path,
        *,
        templates: Templates | None = None,
        allow_missing: bool = False,
        attributes: Attributes | None = None,
    ) -> None:
        pairs.require_folds(str(source))
        if allow_missing and pairs.is_lfw:
            raise UsageError(f"--allow-missing: {source} holds LFW's 6,000 pairs, all of which its protocol scores")
        self.pairs, self.source, self.templates = pairs, source, templates
        self.allow_missing, self._attributes = allow_missing, attributes

    @property
    def images(self) -> tuple[str, ...]:
        """All images that are wanted, each once."""
        return self.pairs.images if self.templates is None else tuple(dict.fromkeys(self.templates.images))

    def report(
        self,
        output: Path,
        named: NamedEmbeddings,
        *,
        face_of: FaceOf | None = None,
        fallback_images: tuple[str, ...] = (),
        others: LabelledEmbeddings | None = None,
        provenance: Provenance | None = None,
        facts: Mapping[str, str],
        note: str = "",
    ) -> VerificationReport:
        """Score the pairs, and write `report.json` and `report.html`.

        Args:
            output: folder of the report.
            named: embeddings of images, by name.
            face_of: aligned face of an image, where there are faces.
            fallback_images: images whose face was not found.
            others: embeddings of other people by the same network, on which PLDA is fitted, as one more score.
            provenance: where the embeddings come from.
            facts: what to say of them.
            note: one line that the report shows beside the numbers.

        Raises:
            FacegmError: an embedding is missing that must not be, the others are people of the pairs, or `evaluate` or
                `fit_plda` finds fault.
        """
        plda = None if others is None else self._plda(others)
        rows = join(self.images, named.names)
        if self.templates is not None:
            templates = self.templates.among(rows) if self.allow_missing else self.templates
            named, face_of = template_embeddings(templates, rows, named.embeddings), None
            rows = {name: row for row, name in enumerate(named.names)}
        dropped = drop_missing(self.pairs, rows) if self.allow_missing else None
        if dropped is not None and not dropped.count:
            dropped = None
        report = evaluate(
            self.pairs if dropped is None else dropped.pairs,
            [*rows],
            named.embeddings[[*rows.values()]],
            face_of=face_of,
            dropped=dropped,
            fallback_images=fallback_images,
            plda=plda,
            attributes=self._attributes,
            provenance=provenance,
            facts={**facts, "pairs": str(self.source)},
            note=note,
        )
        write_report(output, report, face_of=face_of)
        return report

    def _plda(self, others: LabelledEmbeddings) -> Plda:
        """Fitted on people of whom none is in the pairs."""
        if self.templates is not None:
            raise UsageError("--plda: it is a matter of lengths, and embeddings of templates have length 1")
        shared = sorted(
            {person_of(name) for name in self.images} & {name.rpartition("/")[2] for name in others.names} - {""}
        )
        if shared:
            raise FacegmError(
                f"--plda: {len(shared):,} of its people have the name of a person of the pairs: "
                f"{', '.join(shared[:5])}; it must be fitted on others, or it knows whom it is tested on"
            )
        return fit_plda(others.embeddings, others.people, ridge=RIDGE)


def read_set(
    pairs_file: Path,
    *,
    templates_file: Path | None = None,
    allow_missing: bool = False,
    attributes: Attributes | None = None,
) -> SetToVerify:
    """Read pairs of images, or of templates, whose protocol has one split, so that folds are assigned.

    Raises:
        UsageError, FacegmError: a file cannot be used, or see `SetToVerify`.
    """
    if templates_file is None:
        pairs, templates = read_pairs(pairs_file), None
    else:
        pairs, templates = read_template_pairs(pairs_file), read_templates(templates_file)
        fold, origin = assign_folds(pairs.same, pairs.people)
        pairs = replace(pairs, fold=fold, fold_origin=origin)
    return SetToVerify(pairs, pairs_file, templates=templates, allow_missing=allow_missing, attributes=attributes)
