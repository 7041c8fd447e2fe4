"""Where decoded images are kept: what is chosen, and one copy in the memory of each machine, whole for all ranks."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from facegm.data import residency
from facegm.data.residency import Residency, choose_residency, decode_to
from facegm.errors import FacegmError

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIDE, COUNT = 64, 6_000
SIZE = COUNT * SIDE * SIDE * 3


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "device", "free", "free_on_gpu", "expected"),
    [
        (10, GPU, 100, 20, "device"),
        (10, GPU, 100, 19, "host"),
        (10, GPU, 19, 19, "stream"),
        (10, CPU, 20, 1_000, "host"),
        (10, CPU, 19, 1_000, "stream"),
        (float("inf"), CPU, 1_000, 0, "stream"),
    ],
)
def test_the_fastest_place_with_room_is_taken(
    size: float, device: torch.device, free: float, free_on_gpu: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects half of the memory for what else a run needs, and what is asked for from being chosen anew."""
    monkeypatch.setattr(residency, "free_memory", lambda: free)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_on_gpu, 10**9))
    assert choose_residency("auto", size, device) == expected
    places: tuple[Residency, ...] = ("device", "host", "stream")
    assert all(choose_residency(asked, size, device) == asked for asked in places)


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_all_images_are_decoded_in_their_places(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_BLOCK", 7)
    found = decode_to(CPU, image, count, (4, 5, 3))
    np.testing.assert_array_equal(found.numpy(), [image(number) for number in range(count)])


def test_a_damaged_image_is_named() -> None:
    def load(number: int) -> np.ndarray:
        if number == 3:
            raise FacegmError("3.png: damaged")
        return image(number)

    with pytest.raises(FacegmError, match=r"3\.png: damaged"):
        decode_to(CPU, load, 5, (4, 5, 3))


SCRIPT = f"""
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
from facegm.data import residency
from facegm.data.residency import choose_residency, decode_to
from facegm.errors import FacegmError

def share_of_memory():  # what is shared counts by its share in each process; libraries' files do not count
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines() if Path("/proc/self/smaps_rollup").exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))

dist.init_process_group("gloo")
rank = dist.get_rank()
# Ranks 0 and 1 are on one machine, and rank 2 on another.
os.environ |= {{"LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "1" if rank == 2 else "2"}}
cpu, shape, decoded = torch.device("cpu"), ({SIDE}, {SIDE}, 3), []
residency._BLOCK = 64

def load(number):
    decoded.append(number)
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)

decode_to(cpu, load, 3 * 64, shape)  # threads and their heaps are there from now on
decoded.clear()
dist.barrier()
before = share_of_memory()
images = decode_to(cpu, load, {COUNT}, shape)
part = [min(decoded), max(decoded)]
digest = hashlib.sha256(images.numpy()).hexdigest()
dist.barrier()
grown = share_of_memory() - before
dist.barrier()

def fail(number):
    if rank == 1:
        raise FacegmError(f"{{number}}.png: damaged")
    return load(number)

try:
    decode_to(cpu, fail, 10, shape)
    error = ""
except FacegmError as found:
    error = str(found)
residency.free_memory = lambda: 100 if rank == 1 else 1_000
chosen = [choose_residency("auto", size, cpu) for size in (50, 51)]
of_all = [None] * 3
dist.all_gather_object(of_all, [digest, grown, part, error, chosen])
if rank == 0:
    print(json.dumps(of_all))
dist.destroy_process_group()
"""


def test_ranks_of_a_machine_share_one_whole_copy_and_one_fate(torchrun: Torchrun, tmp_path: Path) -> None:
    """Protects memory from a copy a rank, images from lying elsewhere, and ranks from going on where one cannot."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(3, ["script.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    digests, grown, parts, errors, chosen = zip(*json.loads(done.stdout), strict=True)

    images = [np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for number in range(COUNT)]
    assert set(digests) == {hashlib.sha256(np.stack(images).tobytes()).hexdigest()}
    assert parts == ([0, COUNT // 2 - 1], [COUNT // 2, COUNT - 1], [0, COUNT - 1])
    if Path("/proc/self/smaps_rollup").exists():
        assert 0.95 < (grown[0] + grown[1]) / SIZE < 1.3, "of two ranks of a machine"
        assert 0.95 < grown[2] / SIZE < 1.3, "of one on another machine"
    assert errors == 3 * ("5.png: damaged",), "the first of rank 1's part"
    assert chosen == 3 * (["host", "stream"],), "what rank 1 has room for"
