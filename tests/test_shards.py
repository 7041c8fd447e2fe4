"""The GM loss with its means split over processes: equal to one process, in loss and in both gradients."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facegm.losses.gm import gm_loss
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
BATCH, DIM = 8, 5
SETTINGS: dict[str, dict[str, Any]] = {
    f"{implementation}-{regularizer}": {"implementation": implementation, "regularizer": regularizer}
    for implementation in ("dense", "chunked")
    for regularizer in ("mixture", "own")
} | {
    "drawn": {"negatives": 0.4},
    "drawn-own": {"negatives": 0.4, "regularizer": "own"},
    "fused": {"implementation": "fused"},
    "fused-drawn": {"implementation": "fused", "negatives": 0.4},
}

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from facegm.losses.gm import gm_loss
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.schedule import Progress
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
case = torch.load("case.pt", weights_only=True)
shard = Shard.mine(len(case["means"]))
results = {}
for name, chosen in case["settings"].items():
    for precision in (torch.float32, *([] if "fused" in name else [torch.float64])):
        x = case["features"].to(precision, copy=True).requires_grad_()
        mu = shard.part_of(case["means"]).to(precision).clone().requires_grad_()
        settings = dict(chosen)
        if share := settings.pop("negatives", None):
            generator = torch.Generator().manual_seed(5)
            settings["negatives"] = draw_negatives(case["labels"], shard, share, generator)
        terms = gm_loss(x, mu, case["labels"], alpha=0.3, likelihood_weight=0.1, shard=shard, **settings)
        terms.total.backward()
        dist.all_reduce(x.grad)
        whole = shard.whole_of(mu.grad)
        results[name, str(precision)] = [*(term.detach() for term in terms), x.grad, whole]

# The module takes each process's own samples; DDP averages what it gives to their features, and to whole means.
modules = {}
rows = slice(rank * 8 // size, (rank + 1) * 8 // size)
for shard_means in (True, False):
    for share in (1.0, 0.4):
        torch.manual_seed(0)
        config = GMLossConfig(shard_means=shard_means, negative_share=share)
        loss = GMLoss(len(case["means"]), case["features"].shape[1], config)
        x = case["features"][rows].float().requires_grad_()
        loss(x, case["labels"][rows], Progress(3, 4)).total.backward()
        gathered = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(gathered, x.grad / size)
        means, gradient = loss.means.detach(), loss.means.grad
        if shard_means:
            means, gradient = shard.whole_of(means), shard.whole_of(gradient)
        else:
            dist.all_reduce(gradient)
            gradient /= size
        modules[shard_means, share] = [torch.cat(gathered), means, gradient]
if rank == 0:
    torch.save({"terms": results, "modules": modules}, sys.argv[1])
dist.destroy_process_group()
"""


def make_case(classes: int, spread: float) -> dict[str, Tensor]:
    """Features of which some are nearest to their own mean, all around 3."""
    generator = torch.Generator().manual_seed(0)
    noise, means = (torch.randn(n, DIM, generator=generator, dtype=torch.float64) for n in (BATCH, classes))
    labels = torch.randint(classes, (BATCH,), generator=generator)
    return {"features": spread * (noise + means[labels]) + 3, "means": spread * means + 3, "labels": labels}


@pytest.mark.parametrize(("processes", "classes", "spread"), [(2, 13, 1.0), (4, 13, 1.0), (4, 5, 4.0)])
def test_split_means_equal_whole_ones(
    tmp_path: Path, torchrun: Torchrun, kernels_run: bool, processes: int, classes: int, spread: float
) -> None:
    # Of five classes three processes hold one each, beside which their samples know no other class.
    case = make_case(classes, spread)
    every = {name: chosen for name, chosen in SETTINGS.items() if kernels_run or "fused" not in name}
    torch.save(case | {"settings": every}, tmp_path / "case.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(processes, ["script.py", "results.pt"], tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "results.pt", weights_only=True)

    x, mu, y = case["features"].requires_grad_(), case["means"].requires_grad_(), case["labels"]
    for name, chosen in every.items():
        settings = dict(chosen)
        if share := settings.pop("negatives", None):
            settings["negatives"] = draw_negatives(y, Shard.whole(classes), share, torch.Generator().manual_seed(5))
        if "fused" in name:  # which is for single precision; dense tells what it should be
            settings["implementation"] = "dense"
        terms = gm_loss(x, mu, y, alpha=0.3, likelihood_weight=0.1, **settings)
        assert 0 < terms.accuracy < 1
        expected = [*(term.detach() for term in terms), *torch.autograd.grad(terms.total, (x, mu))]
        for precision, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
            if (name, str(precision)) not in found["terms"]:
                continue
            for a, b in zip(found["terms"][name, str(precision)], expected, strict=True):
                assert (a.double() - b).norm() <= tolerance * b.norm(), (name, precision)

    for (_, share), (d_x, means, d_means) in found["modules"].items():
        torch.manual_seed(0)
        loss = GMLoss(classes, DIM, GMLossConfig(negative_share=share))
        assert torch.equal(means, loss.means), "the start does not depend on how the means are split"
        x_single = x.detach().float().requires_grad_()
        loss(x_single, y, Progress(3, 4)).total.backward()
        assert x_single.grad is not None
        assert loss.means.grad is not None
        torch.testing.assert_close(d_x, x_single.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(d_means, loss.means.grad, rtol=1e-5, atol=1e-7)


def test_parts_cover_all_classes_and_differ_by_one_at_most() -> None:
    for classes, processes in ((10_575, 8), (13, 4), (4, 4)):
        parts = [Shard.of_rank(classes, rank, processes) for rank in range(processes)]
        assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
        assert parts[-1].last == classes
        sizes = {part.last - part.first for part in parts}
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="3 classes cannot be split over 4 processes"):
        Shard.of_rank(3, 0, 4)
