"""Protects results by group: who is in a group, which pairs count, and that rates of few pairs are called so."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from facegm.errors import FacegmError
from facegm.eval.reports.groups import (
    FEWEST_PAIRS,
    Attributes,
    group_results,
    person_of,
    read_attributes,
    ungrouped_images,
)
from facegm.eval.sets.pairs import Pairs

PEOPLE = ("Ann", "Bob", "Cid", "Dee", "Eve")
SEX = {"Ann": "f", "Bob": "m", "Cid": "m", "Dee": "f"}


def random_pairs(count: int = 600) -> tuple[Pairs, np.ndarray]:
    """Pairs of photos of five people, and a judgement of each that is often wrong."""
    rng = np.random.default_rng(0)
    names = [f"lfw/{PEOPLE[person]}/{PEOPLE[person]}_{photo:04d}.jpg" for person, photo in rng.integers(0, 5, (200, 2))]
    a, b = (tuple(names[k] for k in rng.integers(0, len(names), count)) for _ in range(2))
    same = np.array([x.split("/")[1] == y.split("/")[1] for x, y in zip(a, b, strict=True)])
    return Pairs(a, b, same, np.arange(count) % 2), same ^ (rng.random(count) < 0.3)


def test_rates_are_those_of_a_loop_over_the_pairs_within_each_group() -> None:
    pairs, accepted = random_pairs()
    glasses = {name: ("f", "yes") if name.endswith("1.jpg") else ("f", "") for name in pairs.images if "Ann" in name}
    attributes = Attributes(names=("sex", "glasses"), values={**{p: (s, "no") for p, s in SEX.items()}, **glasses})
    found = {(one.attribute, one.value): one for one in group_results(pairs, accepted, attributes)}
    assert list(found) == [("sex", "f"), ("sex", "m"), ("glasses", "no"), ("glasses", "yes")]

    def value_of(name: str, attribute: str) -> str:
        person = name.split("/")[1]
        if attribute == "sex":
            return SEX.get(person, "")
        if person == "Ann":
            return "yes" if name.endswith("1.jpg") else ""
        return "no" if person in SEX else ""

    for (attribute, value), one in found.items():
        counts = {"right": 0, "all": 0, "false matches": 0, "different": 0, "false non-matches": 0, "same": 0}
        for a, b, same, said in zip(pairs.names_a, pairs.names_b, pairs.same, accepted, strict=True):
            if value_of(a, attribute) == value == value_of(b, attribute):
                counts["all"] += 1
                counts["right"] += said == same
                counts["same" if same else "different"] += 1
                if said != same:
                    counts["false non-matches" if same else "false matches"] += 1
        assert (one.right.count, one.right.trials) == (counts["right"], counts["all"])
        assert (one.false_match.count, one.false_match.trials) == (counts["false matches"], counts["different"])
        assert (one.false_non_match.count, one.false_non_match.trials) == (counts["false non-matches"], counts["same"])
        assert one.images == sum(value_of(name, attribute) == value for name in pairs.images)
        assert one.is_small == (min(counts["different"], counts["same"]) < FEWEST_PAIRS)
    assert found["sex", "m"].false_match.trials > 0
    assert {*ungrouped_images(pairs, attributes)} == {name for name in pairs.images if "/Eve/" in name}


def test_intervals_are_exact() -> None:
    pairs, accepted = random_pairs()
    one = group_results(pairs, accepted, Attributes(names=("sex",), values={p: (s,) for p, s in SEX.items()}))[0]
    k, n = one.false_non_match.count, one.false_non_match.trials
    expected = [beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)]
    described = one.describe()["false_non_match"]
    assert isinstance(described, dict)
    assert described["interval"] == pytest.approx(expected)
    # The reason for the smallest group: no error among so many still allows for 3.6 %.
    assert beta.ppf(0.975, 1, FEWEST_PAIRS) == pytest.approx(0.036, abs=5e-4)


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes('﻿person,sex,"born in"\r\nAnn,f,"Paris, France"\r\n\r\nBob, m ,\r\n'.encode())
    found = read_attributes(path)
    assert found.names == ("sex", "born in")
    assert found.values == {"Ann": ("f", "Paris, France"), "Bob": ("m", "")}
    assert found.of_image("photos/Bob/Bob_0001.jpg") == ("m", "")
    assert found.of_image("photos/Cid/Cid_0001.jpg") == ("", "")
    assert person_of("Ann/Ann_0001.jpg") == "Ann"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a header `person,attribute,...`"),
        ("person\nAnn\n", "line 1: expected a header"),
        ("person,sex,sex\nAnn,f,f\n", "line 1: expected a header"),
        ("person,sex\nAnn,f\nBob\n", "row 3: 1 fields, but the header has 2"),
        ("person,sex\nAnn,f\nAnn,m\n", "row 3: 'Ann' comes a second time"),
        ("person,sex\n\udcff,f\n", "cannot be read as a table of attributes"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FacegmError, match=message) as caught:
        read_attributes(path)
    assert str(path) in str(caught.value)


def test_a_table_of_other_people_is_refused() -> None:
    pairs, accepted = random_pairs()
    with pytest.raises(FacegmError, match=r"none of the \d+ images of the pairs, nor their people; .* such as Ann"):
        group_results(pairs, accepted, Attributes(names=("sex",), values={"Zoe": ("f",)}))
