"""The fused engine against loops over samples and classes in float64, through Triton's interpreter and on a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_losses import CLASSIFYING, gradients_of, in_precision, make_case, naive_total, relative_error, terms_of
from torch import Tensor

from facegm.losses import fused, fused_schedule
from facegm.losses.engine import Kind, Operands, Weights
from facegm.losses.fused_schedule import Device, Tiles, device_of, plan, programs_of_products, scratch_bytes, tiles
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard

pytest.importorskip("triton")
TINY = Device(2, Tiles(16, 32, 16, 4, 1, 2), Tiles(16, 16, 16, 4, 1, 2))
SHAPES = ((1, 2, 3), (3, 1, 4), (18, 70, 20), (5, 100, 16))
KINDS: tuple[Kind, ...] = ("distances", "products", "cosines")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture
def small_panels(kernels_run: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Panels of 64 classes of small tiles, in shares of 32, so that small cases have several of each."""
    if not kernels_run:
        pytest.skip("Triton's kernels cannot run here")
    monkeypatch.setattr(fused, "_device", lambda _: TINY)
    for name, value in {"PANEL_BYTES": 2**13, "PANEL_SHARE": 0, "LEAST_SHARE": 32}.items():
        monkeypatch.setattr(fused_schedule, name, value)
    plan.cache_clear()
    yield
    plan.cache_clear()


def make_batch(shape: tuple[int, int, int], kind: Kind, *, is_drawn: bool) -> tuple[Operands, Weights]:
    """Samples of which some have their own class elsewhere; in single precision."""
    batch, classes, dim = shape
    generator = torch.Generator().manual_seed(batch)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    own = torch.randint(-1, classes + 1, (batch,), generator=generator)
    origin = torch.full((dim,), 3.0) if kind == "distances" else None
    vectors = 0.5 * draw(classes, dim) + (0.0 if origin is None else origin)
    bias = draw(classes) if kind == "products" else None
    log_weights = draw(classes).abs() if is_drawn else None
    of_total = torch.tensor(0.4).expand(dim)  # as the derivative of a sum is
    weights = Weights(draw(batch) + 3, draw(batch), torch.tensor(-0.3), of_total, torch.tensor(0.7))
    return Operands(0.5 * draw(batch, dim), vectors, own, kind, origin, bias, log_weights), weights


def moved(batch: Operands, device: str) -> Operands:
    fields: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch._asdict().items()
    }
    return Operands(**fields)


def naive(batch: Operands, weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """What `compare` and `gradients` are to give, class by class; the latter by automatic differentiation."""
    x, w = batch.x.double(), batch.vectors.double().requires_grad_()
    bias = None if batch.bias is None else batch.bias.double().requires_grad_()
    classes = len(w)
    log_weights = torch.zeros(classes).double() if batch.log_weights is None else batch.log_weights.double()

    def v(k: int) -> Tensor:
        vector: Tensor = w[k] if batch.origin is None else w[k] - batch.origin.double()
        return vector / torch.linalg.vector_norm(vector) if batch.kind == "cosines" else vector

    objective, weighted, others = w.new_zeros(()), torch.zeros_like(x), []
    for i, z in enumerate(batch.own.tolist()):
        logits = []
        for k in range(classes):
            logit = x[i] @ v(k)
            if batch.kind == "distances":
                logit = logit - 0.5 * v(k).square().sum()
            logit = logit + (0.0 if bias is None else bias[k])
            with_weight = (logit + log_weights[k]).detach()
            weight = weights.own[i].double() if k == z else (with_weight - weights.log_normalizer[i]).exp()
            objective = objective + weights.scale * weight * logit
            weighted[i] += weight * v(k).detach()
            logits += [] if k == z else [with_weight]
        others.append(torch.stack(logits) if logits else torch.full((1,), -torch.inf).double())
    total, spread = torch.zeros_like(x[0]), w.new_zeros(())
    if batch.kind == "distances":
        total = torch.stack([log_weights[k].exp() * v(k) for k in range(classes)]).sum(dim=0)
        spread = torch.stack([log_weights[k].exp() * v(k).square().sum() for k in range(classes)]).sum()
        objective = objective + total @ weights.of_total.double() + spread * weights.of_spread.double()
    maximum, log_sum_exp = (
        torch.stack([f(row) for row in others]) for f in (Tensor.amax, lambda row: row.logsumexp(0))
    )
    gradients = torch.autograd.grad(objective, (w,) if bias is None else (w, bias))
    return [maximum, log_sum_exp, total.detach(), spread.detach()], [weighted, *gradients]


@on_each_device
@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize(("shape", "is_drawn"), [*((shape, True) for shape in SHAPES), (SHAPES[-1], False)])
@pytest.mark.parametrize("kind", KINDS)
def test_comparison_and_gradients_equal_a_naive_loop(
    shape: tuple[int, int, int], kind: Kind, is_drawn: bool, device: str
) -> None:
    """Protects the kernels: ragged tiles, several panels, shares and parts, own classes elsewhere, weighted classes."""
    batch, weights = make_batch(shape, kind, is_drawn=is_drawn)
    of_comparison, gradients = naive(batch, weights)
    there, on_device = moved(batch, device), Weights(*(value.to(device) for value in weights))
    found, kept = fused.Fused().compare(there)
    for a, b in zip(found, of_comparison, strict=True):
        is_finite = b.isfinite()  # where there is no other class, hugely negative
        assert relative_error(a.cpu()[is_finite], b[is_finite]) < 2e-6
        assert (a.cpu()[~is_finite] < -1e38).all()
    by_sample, *by_class = fused.Fused().gradients(there, kept, on_device)
    assert (by_class[-1] is None) == (kind != "products")
    for a, b in zip([t for t in (by_sample, *by_class) if t is not None], gradients, strict=True):
        assert relative_error(a.cpu(), b) < 2e-6


@on_each_device
@pytest.mark.usefixtures("small_panels")
def test_the_order_of_every_sum_is_fixed(device: str) -> None:
    """Protects runs that are to be repeated bit by bit, and a second backward pass, which finds nothing kept."""
    batch, weights = make_batch(SHAPES[-1], "distances", is_drawn=False)
    there, on_device = moved(batch, device), Weights(*(value.to(device) for value in weights))
    kept = fused.Fused().compare(there)[1]
    first, again = fused.Fused().gradients(there, kept, on_device), fused.Fused().gradients(there, None, on_device)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, again, strict=True))  # type: ignore[arg-type]


def test_the_cases_are_cut_everywhere(small_panels: None) -> None:
    """Protects the test above from sizes at which nothing is split."""
    for samples, classes, dim in SHAPES[2:]:
        schedule = plan(samples, classes, dim, TINY)
        assert classes > schedule.width > schedule.share
        assert classes > schedule.classes_of_part
        assert classes % schedule.width
        assert samples % schedule.height


@on_each_device
@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("name", CLASSIFYING)
def test_losses_equal_a_naive_loop(name: str, device: str) -> None:
    """Protects each loss's own use of the engine, in single precision with features and means far from 0."""
    case = make_case(4, 40, 6, shift=3.0, of_vectors=3.0 if name.startswith("gm") else 0.0)
    negatives = draw_negatives(case.labels, Shard.whole(40), 0.4, torch.Generator().manual_seed(0))
    counts = torch.zeros(40, dtype=torch.float64).index_copy(0, negatives.classes, negatives.log_weights.exp().double())
    single = type(case)(
        *(t.detach().to(device).requires_grad_(t.requires_grad) for t in in_precision(case, torch.float32))
    )
    drawn = type(negatives)(*(t.to(device) for t in negatives))
    found, (expected, _) = (
        terms_of(name, single, implementation="fused", negatives=drawn),
        naive_total(name, case, counts),
    )
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(gradients_of(found.total, single), gradients_of(expected, case), strict=True):
        assert relative_error(a.cpu(), b) < 1e-5


@pytest.mark.usefixtures("small_panels")
def test_products_of_numbers_cut_to_tf32_keep_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects what the interpreter does not show: tensor cores leave out the 13 lowest bits of what they multiply."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    exact = interpreter.InterpreterBuilder.create_dot

    def cut(operand: Any) -> Any:
        bits = np.ascontiguousarray(operand.data).view(np.int32)
        return interpreter.TensorHandle((bits & -8192).view(np.float32), operand.dtype)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return exact(self, cut(a), cut(b), *others)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    batch, weights = make_batch((6, 40, 48), "distances", is_drawn=False)
    of_comparison, gradients = naive(batch, weights)
    found, kept = fused.Fused().compare(batch)
    by_sample, by_class, _ = fused.Fused().gradients(batch, kept, weights)
    for a, b in zip((found.log_sum_exp, by_sample, by_class), (of_comparison[1], *gradients), strict=True):
        assert relative_error(a, b) < 2e-6


sizes = st.tuples(st.integers(1, 8_192), st.integers(1, 2_000_000), st.sampled_from([2, 100, 512]))


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([8, 9, 10]), st.integers(20, 160))
def test_a_schedule_covers_the_batch_in_little_memory(
    size: tuple[int, int, int], capability: int, processors: int
) -> None:
    """Protects from sums that leave out classes, and from tiles that end between two panels."""
    samples, classes, dim = size
    device = device_of(capability, processors)
    schedule = plan(samples, classes, dim, device)
    for length in (schedule.height, schedule.width, schedule.share):
        assert length % device.unit == 0
    assert schedule.height >= samples
    assert schedule.shares * schedule.share >= schedule.width
    assert (tiles(classes, schedule.width) - 1) * schedule.width < classes
    assert schedule.classes_of_part % schedule.compare.columns == 0
    assert min(programs_of_products(schedule, min(classes, schedule.width), dim)) > 0
    assert scratch_bytes(samples, classes, dim, device) < max(2**27, 0.02 * 4 * samples * classes)


@pytest.mark.usefixtures("small_panels")
def test_scratch_memory_is_what_is_said() -> None:
    """Protects the figure by which a user decides: the allocator's own account of a comparison and its gradients."""
    batch, weights = make_batch((20, 90, 16), "distances", is_drawn=False)
    engine = fused.Fused()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _, kept = engine.compare(batch)
        gradients = engine.gradients(batch, kept, weights)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    returned = 4 * (sum(tensor.numel() for tensor in gradients if tensor is not None) + 2 * len(batch.vectors))
    assert 0 < peak - returned <= scratch_bytes(20, 90, 16, TINY)


COMPILE = """
import inspect, json, sys
from triton.compiler import ASTSource
if "constexprs" not in inspect.signature(ASTSource.__init__).parameters:
    sys.exit("this Triton takes other arguments")
from compiled_kernels import GPUS, PRODUCTS, compile_kernel, tiles_of
from simulate_schedule import SIZES, processor_use

kinds = {"A100": "products", "H100": "distances", "B200": "cosines"}
kernels = [
    {"kernel": f"{name} for {gpu.name}", "wanted": shape.resident, "resident": compiled.resident(gpu, shape.warps)}
    | compiled._asdict()
    for gpu in GPUS for shape in tiles_of(gpu)[: 2 if gpu.name == "H100" else 1] for name in PRODUCTS
    for compiled in [compile_kernel(name, shape, gpu.capability, kinds[gpu.name])]
]
print(json.dumps({"kernels": kernels, "use": [processor_use(*size, GPUS[1]) for size in SIZES]}))
"""


def test_kernels_compiled_for_absent_gpus_fill_them() -> None:
    """Protects what speed hangs on, and that Ampere, Hopper and Blackwell can run the kernels at all.

    That is programs beside each other, few spilled registers, copies of whole vectors, and no processor without work.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    folder = Path(__file__).parents[1] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    if "this Triton takes other arguments" in done.stderr:
        pytest.skip("this Triton compiles for absent GPUs by another call")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for kernel in found["kernels"]:
        assert kernel["resident"] >= kernel["wanted"] >= 2, kernel
        assert kernel["spilled"] <= 128, kernel  # outside of the loops
        assert kernel["narrow_copies"] <= 4, kernel  # of one row, the origin
    assert all(share > 0.8 for use in found["use"] for share in use.values()), found["use"]


def test_fused_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert fused.obstacle(torch.zeros(2, 3)) == "the device is cpu, not cuda"
