"""The GM loss, forward and backward: time and scratch memory of each way to compute it; run by `make bench-loss`.

Against its three bare matrix products (the floor), `torch.cdist`, automatic differentiation and broadcasting; where
they can be imported, torch's `linear_cross_entropy` and on a GPU Liger-Kernel's, both with the bias -||mu||^2 / 2 and
without margin and likelihood term. On the GPU where there is one.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from interleaved import measure, write_results
from peak_memory import ENVIRONMENT, peak_bytes
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses.engine import Implementation
from facegm.losses.gm import gm_loss

ON_GPU = torch.cuda.is_available()
BATCH, DIM = (4096 if ON_GPU else 256), 512
RUNS = {1_000: 21, 10_575: 21, 100_000: 7, 1_000_000: 3}
"""Runs for each number of classes."""
ALPHA, LIKELIHOOD_WEIGHT = 0.01, 0.001


class Case(NamedTuple):
    x: Tensor
    mu: Tensor
    labels: Tensor
    d_logits: Tensor


Way = Callable[[Case], None]


def make_case(classes: int) -> Case:
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=generator.device)
    labels = torch.randint(classes, (BATCH,), generator=generator, device=generator.device)
    x, mu = draw(BATCH, DIM), draw(classes, DIM).mul_(0.1)
    return Case(x.requires_grad_(), mu.requires_grad_(), labels, draw(BATCH, classes))


def three_products(c: Case) -> None:
    """One product forward, two backward."""
    torch.mm(c.x.detach(), c.mu.detach().T)
    torch.mm(c.d_logits, c.mu.detach())
    torch.mm(c.d_logits.T, c.x.detach())


def by_facegm(c: Case, *, implementation: Implementation) -> None:
    terms = gm_loss(
        c.x, c.mu, c.labels, alpha=ALPHA, likelihood_weight=LIKELIHOOD_WEIGHT, implementation=implementation
    )
    terms.total.backward()


def by_autograd(c: Case) -> None:
    own = 0.5 * (c.x - c.mu[c.labels]).square().sum(dim=1, keepdim=True)
    logits = torch.addmm(-0.5 * c.mu.square().sum(dim=1), c.x, c.mu.T).scatter_add(1, c.labels[:, None], -ALPHA * own)
    center = c.mu.mean(dim=0)
    spreads = (c.x - center).square().sum(dim=1).mean() + (c.mu - center).square().sum(dim=1).mean()
    (cross_entropy(logits, c.labels) + LIKELIHOOD_WEIGHT * spreads).backward()


def by_distances(c: Case, *, squared: Callable[[Tensor, Tensor], Tensor]) -> None:
    distances = squared(c.x, c.mu)
    margin = torch.zeros_like(distances).scatter(1, c.labels[:, None], ALPHA)
    (cross_entropy(-0.5 * (1 + margin) * distances, c.labels) + LIKELIHOOD_WEIGHT * distances.mean()).backward()


def by_torch(c: Case) -> None:
    bias, options = -0.5 * c.mu.square().sum(dim=1), torch.nn.LinearCrossEntropyOptions()
    torch.nn.functional.linear_cross_entropy(c.x, c.mu, c.labels, linear_bias=bias, options=options).backward()


def by_liger(c: Case) -> None:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    LigerFusedLinearCrossEntropyLoss()(c.mu, c.x, c.labels, bias=-0.5 * c.mu.square().sum(dim=1)).backward()


def ways(classes: int) -> dict[str, Way]:
    """What can be run at this size and on this machine."""
    found: dict[str, Way] = {
        "three products": three_products,
        "facegm dense": partial(by_facegm, implementation="dense"),
        "facegm chunked": partial(by_facegm, implementation="chunked"),
    }
    if ON_GPU:
        found["facegm fused"] = partial(by_facegm, implementation="fused")
    if BATCH * classes * 4 <= 2**31:
        found["autograd"] = by_autograd
        found["cdist"] = partial(by_distances, squared=lambda x, mu: torch.cdist(x, mu).square())
    if BATCH * classes * DIM * 4 <= 2**30:
        found["broadcasting"] = partial(by_distances, squared=lambda x, mu: (x[:, None] - mu).square().sum(dim=2))
    if hasattr(torch.nn, "LinearCrossEntropyOptions") and (ON_GPU or classes <= 100_000):  # 20 times the floor there
        found["torch linear_cross_entropy"] = by_torch
    if ON_GPU and importlib.util.find_spec("liger_kernel"):
        found["Liger fused linear cross-entropy"] = by_liger
    return found


def run_once(way: Way, case: Case) -> None:
    way(case)
    case.x.grad = case.mu.grad = None


def scratch_share(name: str, classes: int) -> float:
    """Memory at the peak beyond inputs and gradients, over that of the logits; on a CPU in a process of its own."""
    if ON_GPU:
        peak = peak_of(name, classes)
    else:
        command = [sys.executable, __file__, name, str(classes)]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout)
    gradients = 4 * DIM * (BATCH + classes)
    return round(max(0, peak - gradients) / (4 * BATCH * classes), 4)


def peak_of(name: str, classes: int) -> int:
    """Bytes at the peak of one run, after a small one that loads the libraries."""
    run_once(ways(classes)[name], make_case(1_000))
    case = make_case(classes)
    return peak_bytes(lambda: ways(classes)[name](case))


def main() -> None:
    rows = []
    for classes, runs in RUNS.items():
        known = ways(classes)
        shares = {name: scratch_share(name, classes) for name in known}
        case = make_case(classes)
        timed = measure({name: partial(run_once, way, case) for name, way in known.items()}, runs=runs)
        rows += [{"batch": BATCH, "classes": classes, **r, "scratch_share": shares[str(r["way"])]} for r in timed]
    write_results("gm_loss_gpu" if ON_GPU else "gm_loss", rows)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(peak_of(sys.argv[1], int(sys.argv[2])))
    else:
        main()
