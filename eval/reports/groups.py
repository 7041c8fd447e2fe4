"""Results by group of people: attributes from a table, and error rates of the pairs within a group."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from facegm.errors import FacegmError
from facegm.eval.rates import Rate, share_of
from facegm.eval.sets.pairs import Pairs

FEWEST_PAIRS = 100
"""Groups with fewer pairs of a kind are called too small: without an error their interval reaches to 3.6 %."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What a table says of images or people."""

    names: tuple[str, ...]
    """Names of the attributes, such as `sex`."""
    values: Mapping[str, tuple[str, ...]]
    """By image name or person, a value of each attribute; empty where it is not known."""

    def of_image(self, name: str) -> tuple[str, ...]:
        """Values of an image's attributes: its own, or else its person's; empty where the table has neither."""
        unknown = ("",) * len(self.names)
        return self.values.get(name) or self.values.get(person_of(name)) or unknown


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """How the pairs within a group were judged, at thresholds that are common to all groups."""

    attribute: str
    value: str
    images: int
    """Images of the pairs that are in the group."""
    right: Rate
    """Accuracy: rightly judged share of the group's pairs."""
    false_match: Rate
    """FMR: accepted share of the pairs of two different people of the group."""
    false_non_match: Rate
    """FNMR: rejected share of the pairs of one person in the group."""

    @property
    def is_small(self) -> bool:
        """Whether one of the two error rates rests on too few pairs to be compared with another group's."""
        return min(self.false_match.trials, self.false_non_match.trials) < FEWEST_PAIRS

    def describe(self) -> dict[str, object]:
        """Every number, for JSON."""
        rates = {"accuracy": self.right, "false_match": self.false_match, "false_non_match": self.false_non_match}
        return {
            "attribute": self.attribute,
            "value": self.value,
            "images": self.images,
            "is_small": self.is_small,
            **{name: rate.describe() for name, rate in rates.items()},
        }


def person_of(name: str) -> str:
    """The folder of an image, which names the person: `Aaron_Eckhart` of `lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg`."""
    return name.rpartition("/")[0].rpartition("/")[2]


def read_attributes(path: Path) -> Attributes:
    """Read a table of attributes: CSV with a header, an image or person in its first column, then the attributes.

    Args:
        path: the table, such as `person,sex,region` and a line for each person.

    Raises:
        FacegmError: the file cannot be read, has no attribute, a line is of another length, or a name comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte-order mark, as spreadsheets write it, is left out
    except (OSError, UnicodeDecodeError) as error:
        raise FacegmError(f"{path}: cannot be read as a table of attributes: {error}") from error
    header, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    names = [name.strip() for name in header[1:]]
    if not names or len({*names}) != len(names) or not all(names):
        raise FacegmError(
            f"{path}, line 1: expected a header `person,attribute,...` of one attribute at least, each once, found "
            f"{','.join(header)[:80]!r}"
        )
    values: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        name, *found = (field.strip() for field in row)
        if len(found) != len(names):
            raise FacegmError(f"{path}, row {number}: {len(row)} fields, but the header has {len(header)}")
        if name in values:
            raise FacegmError(f"{path}, row {number}: {name!r} comes a second time")
        values[name] = tuple(found)
    return Attributes(names=tuple(names), values=values)


def group_results(
    pairs: Pairs, accepted: Bool[np.ndarray, " pairs"], attributes: Attributes
) -> tuple[GroupResult, ...]:
    """Count the errors of the pairs within each group; pairs across groups are in none.

    Args:
        pairs: the pairs.
        accepted: which of them were judged to show one person.
        attributes: what is known of their images or people.

    Raises:
        FacegmError: the table knows none of the images.
    """
    images = pairs.images
    known = dict(zip(images, map(attributes.of_image, images), strict=True))
    if not any(any(values) for values in known.values()):
        raise FacegmError(
            f"attributes: the table names none of the {len(images):,} images of the pairs, nor their people; the first "
            f"column holds image names, such as {images[0]}, or people, such as {person_of(images[0]) or 'Ann'}"
        )
    results = []
    for number, attribute in enumerate(attributes.names):
        of_image = {name: values[number] for name, values in known.items()}
        left, right = (np.array([of_image[name] for name in side]) for side in (pairs.names_a, pairs.names_b))
        counts = Counter(of_image.values())
        for value in sorted(counts.keys() - {""}):
            inside = (left == value) & (right == value)
            results.append(_result(pairs.same, accepted, inside, attribute, value, counts[value]))
    return tuple(results)


def _result(
    same: Bool[np.ndarray, " pairs"],
    accepted: Bool[np.ndarray, " pairs"],
    inside: Bool[np.ndarray, " pairs"],
    attribute: str,
    value: str,
    images: int,
) -> GroupResult:
    return GroupResult(
        attribute=attribute,
        value=value,
        images=images,
        right=share_of(accepted == same, inside),
        false_match=share_of(accepted, inside & ~same),
        false_non_match=share_of(~accepted, inside & same),
    )


def ungrouped_images(pairs: Pairs, attributes: Attributes) -> Sequence[str]:
    """Images of the pairs of which the table says nothing."""
    return [name for name in pairs.images if not any(attributes.of_image(name))]
