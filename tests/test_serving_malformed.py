"""Requests that are wrong in any way: a 4xx with a reason each, never a failure, and memory stays where it was."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from malformed_requests import KINDS, Part, exchange, form
from serving import RED, SquaresEmbedder, application, save_model, served, serving_process, squares

from facegm.gallery.gallery import Gallery

CLIENTS = 4


@pytest.fixture
def port(tmp_path: Path, no_disk: None) -> Iterator[int]:
    with (
        Gallery.create(tmp_path / "people.gallery", SquaresEmbedder().contract) as gallery,
        served(application(gallery=gallery)) as port,
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


def resident_mib(process: int) -> float:
    """Memory of a process that is in use."""
    (kib,) = re.findall(r"VmRSS:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(kib) / 1024


@pytest.mark.slow
def test_ten_thousand_malformed_requests_leave_memory_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "embedder.safetensors")
    gallery = tmp_path / "people.gallery"
    with serving_process(tmp_path / "embedder.safetensors", "--gallery", gallery) as (process, port):
        assert process.stdout is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it can write on
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda seed: send_malformed(port, 500, seed), range(CLIENTS)))  # fills its caches
            before = resident_mib(process.pid)
            seeds = range(CLIENTS, 2 * CLIENTS)
            parts = clients.map(lambda seed: send_malformed(port, 10_000 // CLIENTS, seed), seeds)
            seen = sum(parts, Counter[tuple[str, int, str]]())
        after = resident_mib(process.pid)
        with capsys.disabled():
            print(f"\nmemory of the server: {before:.0f} MiB before, {after:.0f} MiB after {seen.total():,} requests")
            for (kind, status, code), number in sorted(seen.items()):
                print(f"  {number:5} {kind}: {status} {code}")
    assert seen.total() == 10_000
    assert after < before + 30
