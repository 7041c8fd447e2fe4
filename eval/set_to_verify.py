"""What is to be verified: pairs of images or of templates, and how they are scored once embeddings are there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from facegm.errors import UsageError
from facegm.eval.embedding_files import NamedEmbeddings
from facegm.eval.evaluation import FaceOf, VerificationReport, evaluate
from facegm.eval.folds import assign_folds
from facegm.eval.groups import Attributes
from facegm.eval.joining import join
from facegm.eval.missing import drop_missing
from facegm.eval.pairs import Pairs, read_pairs
from facegm.eval.provenance import Provenance
from facegm.eval.report import write_report
from facegm.eval.templates import Templates, read_template_pairs, read_templates, template_embeddings


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
            provenance: where the embeddings come from.
            facts: what to say of them.
            note: one line that the report shows beside the numbers.

        Raises:
            FacegmError: an embedding is missing that must not be, or `evaluate` finds fault.
        """
        rows = join(self.images, named.names)
        if self.templates is not None:
            templates = self.templates.among(rows) if self.allow_missing else self.templates
            named, face_of = template_embeddings(templates, rows, named.embeddings), None
            rows = {name: row for row, name in enumerate(named.names)}
        pairs, notes = self.pairs, [note] * bool(note)
        if self.allow_missing:
            dropped = drop_missing(pairs, rows)
            if dropped.count:
                pairs = dropped.pairs
                notes.append(dropped.describe())
        report = evaluate(
            pairs,
            [*rows],
            named.embeddings[[*rows.values()]],
            face_of=face_of,
            fallback_images=fallback_images,
            attributes=self._attributes,
            provenance=provenance,
            facts={**facts, "pairs": str(self.source)},
            note="; ".join(notes),
        )
        write_report(output, report, face_of=face_of)
        return report


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
