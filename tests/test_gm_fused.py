"""The fused GM loss against the dense one in double precision, through Triton's interpreter and on a GPU."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from facegm.losses import fused
from facegm.losses.gm import Regularizer, gm_loss
from facegm.losses.negatives import Negatives, draw_negatives
from facegm.losses.shard import Shard

pytest.importorskip("triton")
SHAPES = ((1, 2, 3), (3, 1, 4), (33, 100, 40), (16, 32, 16), (5, 70, 17))
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture
def small_tiles(kernels_run: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of which small cases have several."""
    if not kernels_run:
        pytest.skip("Triton's kernels cannot run here")
    for name, value in {"TILE": 16, "STEP": 16, "ROWS": 8, "PROGRAMS": 6}.items():
        monkeypatch.setattr(fused, name, value)


def case(batch: int, classes: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x = 0.5 * torch.randn(batch, dim, generator=generator, dtype=torch.float64) + 3
    mu = 0.5 * torch.randn(classes, dim, generator=generator, dtype=torch.float64) + 3
    return x.requires_grad_(), mu.requires_grad_(), torch.randint(classes, (batch,), generator=generator)


def single(device: str, *tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().float().to(device).requires_grad_() for tensor in tensors]


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.double().cpu() - b).norm() <= 1e-5 * b.norm()


@on_each_device
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("shape", "regularizer"),
    [
        *((shape, "mixture") for shape in SHAPES),
        ((3, 1, 4), "own"),  # which no kernel knows of
        ((16, 32, 16), "own"),
    ],
)
def test_fused_equals_dense_in_double_precision(
    shape: tuple[int, int, int], regularizer: Regularizer, device: str
) -> None:
    x, mu, y = case(*shape)
    settings: dict[str, Any] = {"alpha": 0.3, "likelihood_weight": 0.1, "regularizer": regularizer}
    expected = gm_loss(x, mu, y, **settings, implementation="dense")
    x_single, mu_single = single(device, x, mu)
    found = gm_loss(x_single, mu_single, y.to(device), **settings, implementation="fused")
    assert_close(tuple(found), tuple(expected))
    gradients = torch.autograd.grad(found.total, (x_single, mu_single), retain_graph=True)
    assert_close(gradients, torch.autograd.grad(expected.total, (x, mu)))
    again = torch.autograd.grad(found.total, (x_single, mu_single))
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


@on_each_device
@pytest.mark.usefixtures("small_tiles")
def test_fused_takes_drawn_negatives(device: str) -> None:
    x, mu, y = case(9, 60, 20)
    negatives = draw_negatives(y, Shard.whole(60), 0.3, torch.Generator().manual_seed(0))
    exact = negatives._replace(log_weights=negatives.log_weights.double())
    expected = gm_loss(x, mu, y, alpha=0.3, likelihood_weight=0.1, implementation="dense", negatives=exact)
    x_single, mu_single = single(device, x, mu)
    drawn = Negatives(*(tensor.to(device) for tensor in negatives))
    found = gm_loss(
        x_single, mu_single, y.to(device), alpha=0.3, likelihood_weight=0.1, implementation="fused", negatives=drawn
    )
    assert_close(tuple(found), tuple(expected))
    assert_close(torch.autograd.grad(found.total, (x_single, mu_single)), torch.autograd.grad(expected.total, (x, mu)))


def test_scratch_memory_is_below_two_percent_of_the_logits() -> None:
    # What a batch may take beside its gradients: a panel, the transposed means, the parts' evidence, and some vectors.
    for batch, classes in ((4096, 10_575), (4096, 1_000_000), (256, 1_000_000)):
        size = fused._panel_size(batch, classes, 512)
        parts = fused._tiles(classes, fused._classes_of_part(batch, classes))
        scratch = size * (batch + 512) + 3 * parts * batch + 12 * batch + 2 * classes
        assert scratch < 0.02 * batch * classes


COMPILE = """
import inspect, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from facegm.losses import fused, fused_kernels

if "constexprs" not in inspect.signature(ASTSource.__init__).parameters:
    sys.exit("this Triton takes other arguments")
product = {"SAMPLES": fused.TILE, "CLASSES": fused.TILE, "DIM": fused.STEP}
for name, constants in {
    "locate": {"SAMPLES": fused.ROWS, "DIM": fused.TILE},
    "squared_norms": {"CLASSES": fused.ROWS, "DIM": fused.TILE},
    "evidence": product,
    "weigh": product,
    "products": {"ROWS": fused.TILE, "COLUMNS": fused.TILE, "STEP": fused.STEP},
}.items():
    kernel = getattr(fused_kernels, name)
    integers = ("samples", "classes", "dim", "classes_of_part", "first", "stop")
    types = {argument: "i32" if argument in integers else "*fp32" for argument in kernel.arg_names}
    types |= {"own": "*i64"} if "own" in types else {}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
    for capability, kibibytes in ((80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)):
        compiled = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
        assert compiled.metadata.shared <= 1024 * kibibytes, (name, capability, compiled.metadata.shared)
"""


def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    # To machine code, with no more shared memory than a program may have there.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    if "this Triton takes other arguments" in done.stderr:
        pytest.skip("this Triton compiles for absent GPUs by another call")
    assert done.returncode == 0, done.stderr


def test_fused_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert fused.obstacle(torch.zeros(2, 3)) == "the device is cpu, not cuda"
