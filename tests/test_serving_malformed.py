"""Requests that are wrong in any way: a 4xx with a reason each, never a failure, and memory stays where it was."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from malformed_requests import KINDS, Part, exchange, form
from serving import RED, SquaresEmbedder, application, served, squares

from facegm.gallery.gallery import Gallery


@pytest.fixture
def port(tmp_path: Path, no_disk: None) -> Iterator[int]:
    with (
        Gallery.create(tmp_path / "people.gallery", SquaresEmbedder().contract) as gallery,
        served(application(gallery=gallery, is_local=True)) as port,
    ):
        yield port


def send_malformed(port: int, number: int, seed: int) -> Counter[tuple[str, int, str]]:
    """Send so many requests of all kinds; counts kind, status and code of the answers."""
    random = Random(seed)
    seen: Counter[tuple[str, int, str]] = Counter()
    for turn in range(number):
        kind = [*KINDS][turn % len(KINDS)]
        sent = KINDS[kind](random)
        answer = exchange(port, sent)
        assert 400 <= answer.status < 500, (kind, answer.status, answer.body, sent[:1000])
        seen[kind, answer.status, answer.error()] += 1
    return seen


# Starlette leaves the file of a part that is torn to Python, which closes it at once and says so.
torn_parts = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")


@torn_parts
def test_malformed_requests_are_refused_with_a_reason(port: int) -> None:
    seen = send_malformed(port, 320, seed=0)
    assert len({code for _, _, code in seen}) >= 8, seen
    answer = exchange(port, form("/v1/detect", [Part("photo", squares(RED))]))
    assert answer.status == 200, "it serves on"


@pytest.mark.parametrize("seed", range(5))
def test_each_kind_stays_the_same_by_its_seed(seed: int) -> None:
    for make in KINDS.values():
        assert make(Random(seed)) == make(Random(seed))
