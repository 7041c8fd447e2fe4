"""Templates as IJB-B and IJB-C verify them: a person's images from several media, as one embedding."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Float
from scipy.sparse import csr_array

from facegm.errors import FacegmError
from facegm.eval.sets.embedding_files import NamedEmbeddings
from facegm.eval.sets.pairs import Pairs
from facegm.eval.sets.pairs_text import read_lines, split_lines

_IJB_COLUMNS = ("path", "template_id", "media_id")
"""As `ijbc_face_tid_mid.txt` has them, without naming them."""
_PAIR_COLUMNS = ("template1", "template2", "label")
_LABELS = ("label", "same")
"""What the last column is called where a first line names the columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Templates:
    """Which images make up which template; an image may be in several.

    Raises:
        FacegmError: the three columns differ in length.
    """

    images: tuple[str, ...]
    """An image of a template, row by row."""
    templates: tuple[str, ...]
    """The template's name."""
    media: tuple[str, ...]
    """The name of the photo or video that the image is of."""

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.templates), len(self.media)}
        if len(lengths) != 1:
            raise FacegmError(f"templates: images, templates and media differ in length: {sorted(lengths)}")

    def among(self, present: Collection[str]) -> "Templates":
        """Those rows whose image is there; a template may get fewer images, or none and so go."""
        there = {*present}
        rows = [row for row, image in enumerate(self.images) if image in there]
        images, templates, media = (
            tuple(column[row] for row in rows) for column in (self.images, self.templates, self.media)
        )
        return Templates(images=images, templates=templates, media=media)


def read_templates(path: Path) -> Templates:
    """Read which images make up which template.

    Columns are separated by tabs, commas or spaces: `path template_id media_id`, as in IJB's `ijbc_face_tid_mid.txt`,
    or in any order where the first line names them.

    Raises:
        FacegmError: the file cannot be read, or a line has another number of columns or an empty one.
    """
    lines = split_lines(path, read_lines(path))
    names = [field.lower() for field in lines[0].fields]
    is_named = {*_IJB_COLUMNS} <= {*names}
    order = [(names if is_named else _IJB_COLUMNS).index(name) for name in _IJB_COLUMNS]
    width = len(names) if is_named else len(_IJB_COLUMNS)
    for line in lines:
        if len(line.fields) != width or not all(line.fields[column] for column in order):
            raise FacegmError(
                f"{path}, line {line.number}: expected {width} columns, among them {', '.join(_IJB_COLUMNS)}, "
                f"found {line.text[:80]!r}"
            )
    images, templates, media = (tuple(line.fields[column] for line in lines[is_named:]) for column in order)
    return Templates(images=images, templates=templates, media=media)


def read_template_pairs(path: Path) -> Pairs:
    """Read pairs of templates, `template1 template2 label` as in IJB's `ijbc_template_pair_label.txt`, as pairs.

    Columns are separated by tabs, commas or spaces; a first line that names them is passed over.
    Their names are those of templates, and all are of fold 0: the protocol has one split.

    Raises:
        FacegmError: the file cannot be read, a line is malformed, or pairs of one kind are missing.
    """
    kinds = [pa.dictionary(pa.int32(), pa.string())] * 2 + [pa.int8()]
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline().rstrip()
        separator = next((mark for mark in "\t, " if mark in first), "\t")
        is_header = first.rpartition(separator)[2].lower() in _LABELS
        table = pa.csv.read_csv(
            path,
            pa.csv.ReadOptions(column_names=_PAIR_COLUMNS, skip_rows=int(is_header)),
            pa.csv.ParseOptions(delimiter=separator),
            pa.csv.ConvertOptions(column_types=dict(zip(_PAIR_COLUMNS, kinds, strict=True))),
        )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise FacegmError(f"{path}: {error}; expected lines `template1 template2 label`, with 1 or 0 last") from error
    table = table.unify_dictionaries().combine_chunks()
    label = table["label"].fill_null(-1).to_numpy()
    if not np.array_equal(np.unique(label), [0, 1]):
        raise FacegmError(
            f"{path}: labels {np.unique(label)[:5].tolist()}; expected 1 (one person) and 0 (two), and both"
        )
    names_a, names_b = (_texts(table[name].chunk(0)) for name in _PAIR_COLUMNS[:2])
    return Pairs(names_a, names_b, label == 1, np.zeros(len(label), np.int64), "one split, without folds")


def _texts(column: pa.DictionaryArray) -> tuple[str, ...]:
    """The values of a column, of which equal ones are one object."""
    values = column.dictionary.to_pylist()
    return tuple(map(values.__getitem__, column.indices.to_pylist()))


def template_embeddings(
    templates: Templates, rows: Mapping[str, int], embeddings: Float[np.ndarray, "images dim"]
) -> NamedEmbeddings:
    """Make one embedding of each template by IJB's protocol, to be joined with pairs of templates by `join`.

    The images of one medium within a template are averaged, so that a video counts as much as a photo; the averages
    are added up, and the sum is scaled to unit length (insightface's `image2template_feature`). Computed in float64.

    Args:
        templates: of which images each consists.
        rows: row of every image's embedding, as `join(templates.images, names)` finds them.
        embeddings: one for each image, mirror images already summed.

    Raises:
        FacegmError: images have no embedding.
    """
    missing = [image for image in templates.images if image not in rows]
    if missing:
        raise FacegmError(
            f"embeddings: {len(missing):,} of the {len(templates.images):,} images of templates have none: "
            f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}"
        )
    names, template = np.unique(np.array(templates.templates, object), return_inverse=True)
    media = np.unique(np.array(templates.media, object), return_inverse=True)[1]
    _, medium, count = np.unique(template * (media.max() + 1) + media, return_inverse=True, return_counts=True)
    columns = np.array([rows[image] for image in templates.images])
    weights = csr_array((1 / count[medium], (template, columns)), shape=(len(names), len(embeddings)))
    sums = weights @ embeddings.astype(np.float64)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return NamedEmbeddings(names=tuple(names.tolist()), embeddings=sums / np.where(lengths > 0, lengths, 1))
