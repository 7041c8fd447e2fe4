"""Protects the numbers of an inspection: counts and quantiles against loops over rows, and what is odd about them."""

import random
import statistics
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from manifests import Row, digest_of, face_row, manifest_table, quantiles_of

from facegm.align.columns import UNKNOWN, codes
from facegm.align.inspection import inspect_manifest
from facegm.align.inspection_text import describe, identity_remarks


class InMemory:
    """A manifest that counts how often each column is read, and in how much company."""

    def __init__(self, rows: Sequence[Row], cuts: Sequence[int] = ()) -> None:
        self._table = manifest_table(rows, cuts=cuts)
        self.read: list[Sequence[str]] = []

    def table(self, columns: Sequence[str]) -> pa.Table:
        self.read.append(columns)
        return self._table.select(columns)


@pytest.mark.parametrize("seed", range(5))
def test_random_manifests_are_counted_as_by_a_loop_over_their_rows(seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for number in range(300):
        row = dict(face_row(number, rng.choice(["Ann", "Bob", "Cleo", "Dan", None])))
        row["faces"] = rng.choice([0, 1, 2, 3, None])
        row["status"] = rng.choice(["aligned", "aligned", "center-crop", "failed"])
        row["reason"] = rng.choice(["empty", "torn"]) if row["status"] == "failed" else None
        rows.append({name: value for name, value in row.items() if rng.random() < 0.9 or name == "status"})
    manifest = InMemory(rows, cuts=[100, 100, 217])
    found = inspect_manifest(manifest)

    statuses: Counter[str] = Counter()
    usable: Counter[object] = Counter()
    several = 0
    for row in rows:
        statuses[str(row["status"])] += 1
        if row["status"] == "failed":
            statuses[f"failed: {row.get('reason')}"] += 1
        usable[row.get("identity")] += row["status"] != "failed"
        several += (row.get("faces") or 0) > 1
    unknown = usable.pop(None)
    assert found.statuses == statuses
    assert found.several_faces == several
    assert found.identities.identities == len(usable)
    assert found.identities.unknown == unknown
    assert found.identities.largest == usable.most_common(1)[0][0]
    assert found.identities.quartiles == sorted(usable.values())[:1] + statistics.quantiles(
        usable.values(), n=4, method="inclusive"
    ) + [max(usable.values())]
    for name in ("residual", "profile", "sharpness", "contrast", "probability"):
        assert found.quantiles[name] == pytest.approx(quantiles_of([row[name] for row in rows if name in row]))
    boxes = [row["box"] for row in rows if "box" in row]
    sizes = [min(right - left, bottom - top) for left, top, right, bottom in boxes]
    assert found.quantiles["face size"] == pytest.approx(quantiles_of(sizes))
    assert max(map(len, manifest.read)) == 3, "few columns are in memory at a time"


def test_columns_that_come_as_dictionaries_of_several_chunks_are_numbered_alike() -> None:
    column = pa.chunked_array(
        [pa.array(["Bob", None, "Ann"]).dictionary_encode(), pa.array(["Ann", "Cleo"]).dictionary_encode()]
    )
    numbers, values = codes(column)
    assert (numbers.tolist(), values.to_pylist()) == ([0, UNKNOWN, 1, 1, 2], ["Bob", "Ann", "Cleo"])


def test_groups_beyond_the_first_few_are_counted() -> None:
    rows = [
        face_row(0, "Ann", key=f"{group}/{photo}", digest=digest_of(group)) for group in range(7) for photo in range(8)
    ]
    lines = describe(inspect_manifest(InMemory(rows)), lambda row: str(rows[row]["key"])).splitlines()
    assert "exact duplicates: 7 groups, 56 photos" in lines
    assert "    0/0 = 0/1 = 0/2 = 0/3 = 0/4 and 3 more" in lines
    assert "    and 2 more groups" in lines


@pytest.mark.parametrize("identity", ["Ann", None])
def test_it_is_said_where_near_duplicates_may_be_missed(identity: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    remark = "  among more than 3 photos of an identity a few pairs may be missed"
    monkeypatch.setattr("facegm.align.inspection_text.EXHAUSTIVE_SIZE", 3)
    assert remark in _described(*[identity] * 4, "Bob")
    assert remark not in _described(*[identity] * 3, "Bob")


# ------------------------------------------------------------------------------------------------ identities


def _described(*identities: str | None) -> list[str]:
    rows = [face_row(number, identity) for number, identity in enumerate(identities)]
    return describe(inspect_manifest(InMemory(rows)), lambda row: str(rows[row]["key"])).splitlines()


def test_photos_of_no_known_identity_are_counted_apart() -> None:
    lines = _described("Ann", None, "Bob", None, "Bob", None)
    assert lines[:3] == [
        "2 identities, 1 of them with fewer than 2 usable photos",
        "usable photos of an identity: at least 1, quartiles 1.25, 1.5, 1.75, at most 2 (Bob)",
        "3 faces of no known identity, which count as none",
    ]
    assert _described(None, None)[:2] == ["0 identities", "2 faces of no known identity, which count as none"]


@pytest.mark.parametrize(
    ("identities", "faces", "unknown", "warning"),
    [
        (1, 500, 0, "warning: one identity alone"),
        (1, 1, 0, "warning: one identity alone"),
        (1, 500, 20, "warning: one identity alone"),
        (40, 40, 0, "warning: 40 identities for 40 faces"),
        (1234, 1200, 0, "warning: 1,234 identities for 1,200 faces"),
        (40, 45, 5, "warning: 40 identities for 40 faces"),
        (40, 41, 0, None),
        (2, 4, 0, None),
        (0, 5, 5, None),
        (3, 0, 0, None),
    ],
)
def test_an_odd_number_of_identities_is_doubted(identities: int, faces: int, unknown: int, warning: str | None) -> None:
    lines = identity_remarks(identities=identities, faces=faces, unknown=unknown)
    assert lines[0] == ("1 identity" if identities == 1 else f"{identities:,} identities")
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == (warning is not None)
    assert all(line.startswith(str(warning)) for line in warnings)
    assert (f"{unknown} faces of no known identity, which count as none" in lines) is (unknown > 0)
