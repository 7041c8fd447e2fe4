"""Each loss, forward and backward: time and scratch memory of every way to compute it; run by `make bench-loss`.

Against its three bare matrix products, which are the floor. Beside the GM loss stand automatic differentiation,
`torch.cdist` and broadcasting, beside softmax automatic differentiation, and beside both, where they can be imported,
torch's `linear_cross_entropy` and on a GPU Liger-Kernel's and Apple's (in bfloat16, which it wants): for the GM loss
with the bias -||mu||^2 / 2 and without margin and likelihood term. On the GPU where there is one; else on one thread,
in seconds that the processor spends on this process, so that others on the machine count little.
"""

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from interleaved import RESULTS, measure, processor_seconds, wall_clock, write_results
from peak_memory import ENVIRONMENT, peak_bytes
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from facegm.losses.angular import arcface_loss, cosface_loss
from facegm.losses.center import center_loss
from facegm.losses.engine import Implementation
from facegm.losses.gm import gm_loss
from facegm.losses.softmax import softmax_loss

ON_GPU = torch.cuda.is_available()
DIM = 512
BATCHES = [256, 4096] if ON_GPU else [256]
CLASSES = [10_575, 20_000, 100_000, 1_000_000] if ON_GPU else [10_575, 100_000]
ENGINES: tuple[Implementation, ...] = ("dense", "chunked", "fused") if ON_GPU else ("dense", "chunked")
ALPHA, LIKELIHOOD_WEIGHT = 0.01, 0.001
SCHEDULE = RESULTS / "schedule.csv"
"""How busy the fused kernels would keep a GPU, by simulation."""


class Case(NamedTuple):
    """Samples, and what a loss learns of the classes."""

    x: Tensor
    vectors: Tensor
    bias: Tensor
    centers: Tensor
    labels: Tensor
    d_logits: Tensor


Way = Callable[[Case], None]
LOSSES: dict[str, Callable[..., Any]] = {
    "gm": partial(gm_loss, alpha=ALPHA, likelihood_weight=LIKELIHOOD_WEIGHT),
    "softmax": softmax_loss,
    "center": partial(center_loss, center_weight=0.008),
    "cosface": partial(cosface_loss, scale=64.0, margin=0.35),
    "arcface": partial(arcface_loss, scale=64.0, margin=0.5),
}
BIASES: dict[str, Callable[[Case], Tensor]] = {
    "gm": lambda c: -0.5 * c.vectors.square().sum(dim=1),
    "softmax": lambda c: c.bias,
}
"""Those with which a loss without margin is a linear classifier's."""


def make_case(batch: int, classes: int) -> Case:
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=generator.device)
    labels = torch.randint(classes, (batch,), generator=generator, device=generator.device)
    vectors, bias = draw(classes, DIM).mul_(0.1).requires_grad_(), draw(classes).requires_grad_()
    return Case(draw(batch, DIM).requires_grad_(), vectors, bias, vectors.detach(), labels, draw(batch, classes))


def three_products(c: Case) -> None:
    """One product forward, two backward."""
    torch.mm(c.x.detach(), c.vectors.detach().T)
    torch.mm(c.d_logits, c.vectors.detach())
    torch.mm(c.d_logits.T, c.x.detach())


def by_facegm(c: Case, *, loss: str, engine: Implementation) -> None:
    beside_vectors = {"softmax": (c.bias,), "center": (c.bias, c.centers)}.get(loss, ())
    LOSSES[loss](c.x, c.vectors, *beside_vectors, c.labels, implementation=engine).total.backward()


def gm_by_autograd(c: Case) -> None:
    own = 0.5 * (c.x - c.vectors[c.labels]).square().sum(dim=1, keepdim=True)
    logits = linear(c.x, c.vectors, BIASES["gm"](c)).scatter_add(1, c.labels[:, None], -ALPHA * own)
    center = c.vectors.mean(dim=0)
    spreads = (c.x - center).square().sum(dim=1).mean() + (c.vectors - center).square().sum(dim=1).mean()
    (cross_entropy(logits, c.labels) + LIKELIHOOD_WEIGHT * spreads).backward()


def gm_by_distances(c: Case, *, squared: Callable[[Tensor, Tensor], Tensor]) -> None:
    distances = squared(c.x, c.vectors)
    margin = torch.zeros_like(distances).scatter(1, c.labels[:, None], ALPHA)
    (cross_entropy(-0.5 * (1 + margin) * distances, c.labels) + LIKELIHOOD_WEIGHT * distances.mean()).backward()


def softmax_by_autograd(c: Case) -> None:
    cross_entropy(linear(c.x, c.vectors, c.bias), c.labels).backward()


def by_torch(c: Case, *, loss: str) -> None:
    bias, options = BIASES[loss](c), torch.nn.LinearCrossEntropyOptions()
    torch.nn.functional.linear_cross_entropy(c.x, c.vectors, c.labels, linear_bias=bias, options=options).backward()


def by_liger(c: Case, *, loss: str) -> None:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    LigerFusedLinearCrossEntropyLoss()(c.vectors, c.x, c.labels, bias=BIASES[loss](c)).backward()


def by_apple(c: Case, *, loss: str) -> None:
    from cut_cross_entropy import linear_cross_entropy

    x, vectors, bias = (tensor.to(torch.bfloat16) for tensor in (c.x, c.vectors, BIASES[loss](c)))
    linear_cross_entropy(x, vectors, c.labels, bias=bias).backward()


def ways(loss: str, batch: int, classes: int) -> dict[str, Way]:
    """What can be run at this size and on this machine."""
    found: dict[str, Way] = {"three products": three_products}
    found |= {f"facegm {engine}": partial(by_facegm, loss=loss, engine=engine) for engine in ENGINES}
    if batch * classes * 4 <= 2**31 and loss == "gm":
        found["autograd"] = gm_by_autograd
        found["cdist"] = partial(gm_by_distances, squared=lambda x, mu: torch.cdist(x, mu).square())
    if batch * classes * 4 <= 2**31 and loss == "softmax":
        found["autograd"] = softmax_by_autograd
    if batch * classes * DIM * 4 <= 2**30 and loss == "gm":
        found["broadcasting"] = partial(gm_by_distances, squared=lambda x, mu: (x[:, None] - mu).square().sum(dim=2))
    if loss not in BIASES:
        return found
    if hasattr(torch.nn, "LinearCrossEntropyOptions") and (ON_GPU or classes <= 100_000):  # 20 times the floor there
        found["torch linear_cross_entropy"] = partial(by_torch, loss=loss)
    if ON_GPU and importlib.util.find_spec("liger_kernel"):
        found["Liger fused linear cross-entropy"] = partial(by_liger, loss=loss)
    if ON_GPU and importlib.util.find_spec("cut_cross_entropy"):
        found["Apple cut cross-entropy, bfloat16"] = partial(by_apple, loss=loss)
    return found


def run_once(way: Way, case: Case) -> None:
    way(case)
    case.x.grad = case.vectors.grad = case.bias.grad = None


def scratch_shares(loss: str, batch: int, classes: int) -> dict[str, float]:
    """Of each way, memory at the peak beyond inputs and gradients, over that of the logits."""
    if ON_GPU:
        peaks = peaks_of(loss, batch, classes)
    else:  # in a process that gives freed memory back
        size = ["--losses", loss, "--batch", str(batch), "--classes", str(classes)]
        command = [sys.executable, __file__, *size, "--peaks"]
        peaks = json.loads(subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT).stdout)
    gradients = 4 * DIM * (batch + classes)
    return {way: round(max(0, peak - gradients) / (4 * batch * classes), 4) for way, peak in peaks.items()}


def peaks_of(loss: str, batch: int, classes: int) -> dict[str, int]:
    """Bytes at the peak of a run of each way, after a small one that loads the libraries."""
    peaks = {}
    for name, way in ways(loss, batch, classes).items():
        run_once(way, make_case(batch, 1_000))
        case = make_case(batch, classes)
        peaks[name] = peak_bytes(partial(way, case))
    return peaks


def simulated_use(batch: int, classes: int) -> dict[str, object]:
    """Share of time for which the fused kernels keep this GPU's processors busy, of a size near this one."""
    if not SCHEDULE.is_file():
        return {}
    processors = str(torch.cuda.get_device_properties(0).multi_processor_count)
    for row in csv.DictReader(SCHEDULE.read_text().splitlines()):
        is_near = 0.9 < classes / int(row["classes"]) < 1.1
        if row["processors"] == processors and row["batch"] == str(batch) and is_near:
            return {"simulated_use_forward": row["forward_after"], "simulated_use_backward": row["backward_after"]}
    return {}


def measure_loss(loss: str, case: Case) -> list[dict[str, object]]:
    batch, classes = case.d_logits.shape
    shares = scratch_shares(loss, batch, classes)
    timed = measure(
        {name: partial(run_once, way, case) for name, way in ways(loss, batch, classes).items()},
        runs=21 if classes < 50_000 else 7 if classes < 500_000 else 3,
        clock=wall_clock if ON_GPU else processor_seconds,
    )
    rows = []
    for row in timed:
        way = str(row["way"])
        rows.append({"loss": loss, "batch": batch, "classes": classes, **row, "scratch_share": shares[way]})
        if way == "facegm fused":
            rows[-1] |= simulated_use(batch, classes)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    options.add_argument("--batch", nargs="*", type=int, default=BATCHES)
    options.add_argument("--classes", nargs="*", type=int, default=CLASSES)
    options.add_argument("--peaks", action="store_true", help=argparse.SUPPRESS)  # memory alone, of one loss and size
    asked = options.parse_args()
    if not ON_GPU:
        torch.set_num_threads(1)
    if asked.peaks:
        print(json.dumps(peaks_of(asked.losses[0], asked.batch[0], asked.classes[0])))
        return
    rows = []
    for batch in asked.batch:
        for classes in asked.classes:
            case = make_case(batch, classes)
            rows += [row for loss in asked.losses for row in measure_loss(loss, case)]
            write_results("loss_gpu" if ON_GPU else "loss", rows)  # what is there, should the next one fail


if __name__ == "__main__":
    main()
