"""Losses with their classes split over processes, against one process and one class at a time."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from naive_losses import CLASSIFYING, gradients_of, make_case, naive_total, relative_error

from facegm.losses.config import LossConfig, LossName, build_loss
from facegm.losses.negatives import Negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress

Torchrun = Callable[[int, Sequence[str], Path], subprocess.CompletedProcess[str]]
BATCH, DIM, SHARE = 8, 5, 0.4
MODULES: tuple[LossName, ...] = ("gm", "softmax", "center", "cosface", "arcface")

SCRIPT = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
import torch
import torch.distributed as dist
from naive_losses import Case, gradients_of, in_precision, terms_of
from facegm.losses.config import LossConfig, build_loss
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
given = torch.load("case.pt", weights_only=True)
case, (batch, share) = Case(*given["case"]), given["settings"]
shard = Shard.mine(len(case.vectors))

def counts_of(negatives):
    counts = torch.zeros(shard.last - shard.first, dtype=torch.float64)
    return shard.whole_of(counts.index_copy(0, negatives.classes, negatives.log_weights.exp()))

generator = torch.Generator().manual_seed(rank)  # each process draws from its own classes
drawn = draw_negatives(case.labels, shard, share, generator)
terms = {}
for name, by, is_drawn, precision in given["cases"]:
    part = in_precision(case._replace(**{
        of_each: shard.part_of(getattr(case, of_each).detach()) for of_each in ("vectors", "bias", "centers")
    }), getattr(torch, precision))
    found = terms_of(name, part, implementation=by, shard=shard, negatives=drawn if is_drawn else None)
    d_x, d_vectors, d_bias = gradients_of(found.total, part)
    dist.all_reduce(d_x)
    watched = torch.stack([found.total.detach(), found.accuracy])
    terms[name, by, is_drawn, precision] = [watched, d_x, shard.whole_of(d_vectors), shard.whole_of(d_bias)]

# The module takes each process's own samples; DDP averages what it gives to their features, and to whole vectors.
modules = {}
rows = slice(rank * batch // size, (rank + 1) * batch // size)
for name in given["modules"]:
    for is_split in (True, False):
        for of_all in (1.0, share):
            torch.manual_seed(0)
            config = LossConfig(name=name)
            chosen = replace(config.chosen, shard_means=is_split, negative_share=of_all)
            loss = build_loss(replace(config, **{name: chosen}), len(case.vectors), case.x.shape[1])
            x = case.x.detach()[rows].float().requires_grad_()
            _, labels = loss._gathered(x, case.labels[rows])
            negatives = loss._comparison(labels, Progress(3, 4))["negatives"]
            before = {key: tensor.clone() for key, tensor in loss.state_dict().items()}
            loss(x, case.labels[rows], Progress(3, 4)).total.backward()
            gathered = [torch.empty_like(x) for _ in range(size)]
            dist.all_gather(gathered, x.grad / size)
            gradients = {key: parameter.grad.to_dense() for key, parameter in loss.named_parameters()}
            after = {key: tensor - before[key] for key, tensor in loss.named_buffers()}
            assert set(loss.sharded) == (set(before) if is_split else set())
            for tensors in (before, gradients, after):
                for key, tensor in tensors.items():
                    if is_split:
                        tensors[key] = shard.whole_of(tensor)
                    else:
                        dist.all_reduce(tensor)
                        tensor /= size
            counts = None
            if negatives is not None:
                counts = counts_of(negatives) if is_split else torch.zeros(len(case.vectors)).double().index_copy(
                    0, negatives.classes, negatives.log_weights.exp()
                )
            modules[name, is_split, of_all] = [counts, torch.cat(gathered), before, gradients, after]
counts = counts_of(drawn)
if rank == 0:
    torch.save({"terms": terms, "modules": modules, "counts": counts}, sys.argv[1])
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("processes", "classes", "shift"), [(2, 13, 3.0), (4, 13, 0.0), (4, 5, 0.0)])
def test_split_classes_equal_whole_ones(
    tmp_path: Path,
    torchrun: Torchrun,
    kernels_run: bool,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    classes: int,
    shift: float,
) -> None:
    # Of five classes three processes hold one each, beside which their samples know no other class.
    case = make_case(BATCH, classes, DIM, shift=shift)
    interpreted = ("gm", "softmax", "arcface")[: 3 if processes == 2 else 1] if kernels_run else ()
    cases = [
        (name, by, is_drawn, precision)
        for name in CLASSIFYING
        for by in ("dense", "chunked", *(["fused"] if name in interpreted else []))
        for is_drawn in (False, True)
        for precision in ("float32", *([] if by == "fused" else ["float64"]))
    ]
    given = {"case": tuple(case), "settings": (BATCH, SHARE), "cases": cases, "modules": MODULES}
    torch.save(given, tmp_path / "case.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(processes, ["script.py", "results.pt", str(Path(__file__).parent / "support")], tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "results.pt", weights_only=True)

    expected = {}
    for name in CLASSIFYING:
        for is_drawn in (False, True):
            total, accuracy = naive_total(name, case, found["counts"] if is_drawn else None)
            watched = torch.stack([total.detach(), torch.tensor(accuracy)])
            expected[name, is_drawn] = [watched, *gradients_of(total, case)]
    assert len({float(watched[1]) for watched, *_ in expected.values()}) > 1, "some samples are taken for others"
    for (name, by, is_drawn, precision), results in found["terms"].items():
        for a, b in zip(results, expected[name, is_drawn], strict=True):
            assert relative_error(a, b) <= {"float32": 1e-5, "float64": 1e-10}[precision], (name, by, is_drawn)

    for (name, is_split, share), (counts, *results) in found["modules"].items():
        torch.manual_seed(0)
        config = LossConfig(name=name)
        config = replace(config, **{name: replace(config.chosen, negative_share=share)})
        loss = build_loss(config, classes, DIM)
        start = {key: tensor.clone() for key, tensor in loss.state_dict().items()}
        assert all(torch.equal(results[1][key], tensor) for key, tensor in start.items()), "however they are split"
        if is_split and share < 1:  # each process draws by itself; one that has all draws other classes
            negatives = Negatives(counts.nonzero()[:, 0], counts[counts > 0].log())
            how = {"implementation": "auto", "shard": Shard.whole(classes), "negatives": negatives}
            monkeypatch.setattr(loss, "_comparison", lambda *_, how=how: how)
        x = case.x.detach().float().requires_grad_()
        loss(x, case.labels, Progress(3, 4)).total.backward()
        gradients = {key: p.grad.to_dense() for key, p in loss.named_parameters() if p.grad is not None}
        moved = {key: tensor - start[key] for key, tensor in loss.named_buffers()}
        expected_here = [{"x": x.grad}, start, gradients, moved]
        for some, of_one in zip([{"x": results[0]}, *results[1:]], expected_here, strict=True):
            assert some.keys() == of_one.keys()
            for key, tensor in of_one.items():
                assert relative_error(some[key], tensor.double()) < 1e-5, (name, is_split, share, key)


def test_parts_cover_all_classes_and_differ_by_one_at_most() -> None:
    for classes, processes in ((10_575, 8), (13, 4), (4, 4)):
        parts = [Shard.of_rank(classes, rank, processes) for rank in range(processes)]
        assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
        assert parts[-1].last == classes
        sizes = {part.last - part.first for part in parts}
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="3 classes cannot be split over 4 processes"):
        Shard.of_rank(3, 0, 4)
