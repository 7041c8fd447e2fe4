"""The fused kernels, compiled for GPUs that need not be here: what each takes of a processor."""

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from facegm.losses import fused_kernels
from facegm.losses.fused_schedule import TILES, Tiles

PRODUCTS = ("evidence", "weigh", "products")
"""The kernels that multiply matrices."""
ABSENT = {
    "distances": ("lengths", "log_weights", "of_bias"),
    "products": ("origin", "lengths", "log_weights"),
    "cosines": ("origin", "bias", "log_weights", "of_bias"),
}
"""Arguments that a kind of classes does without."""
INTEGERS = ("samples", "classes", "dim", "classes_of_part", "first", "stop", "width", "height", "share", "summands")
NO_MULTIPLES = ("first", "stop", "summands")
"""Integers of which nothing is known; the others are multiples of 16."""


class Gpu(NamedTuple):
    name: str
    capability: int
    processors: int
    shared_memory: int
    """Bytes of a processor, of which each program takes 1 KiB beside its own."""


GPUS = (Gpu("A100", 80, 108, 164 * 1024), Gpu("H100", 90, 132, 228 * 1024), Gpu("B200", 100, 148, 228 * 1024))


class Compiled(NamedTuple):
    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of a thread for which there was no register."""
    shared: int
    """Bytes of a program."""
    tensor_memory: int
    """Columns of a program, of a processor's 512; Blackwell's alone."""
    copies: int
    """Instructions that copy tiles from global to shared memory."""
    narrow_copies: int
    """Those of less than 16 bytes a thread."""

    def resident(self, gpu: Gpu, warps: int) -> int:
        """Programs that a processor holds at a time."""
        of_registers = 65_536 // (-(-self.registers // 8) * 8 * 32 * warps)
        of_tensor_memory = 512 // max(self.tensor_memory, 16)
        return min(of_registers, gpu.shared_memory // (self.shared + 1024), of_tensor_memory, 64 // warps)


def tiles_of(gpu: Gpu) -> tuple[Tiles, Tiles]:
    """Large and small tiles."""
    return TILES[gpu.capability // 10]


@cache
def compile_kernel(name: str, shape: Tiles, capability: int, kind: str = "distances") -> Compiled:
    """Compile for a batch whose length and dimensions are multiples of the tiles, and of one kind of classes."""
    kernel = getattr(fused_kernels, name)
    sides = ("ROWS", "COLUMNS") if name == "products" else ("SAMPLES", "CLASSES")
    constants: dict[str, Any] = dict(zip(sides, shape[:2], strict=True)) | {"STEP": shape.step, "EVEN": True}
    constants |= {"DISTANCES": kind == "distances", "CLASSES_FIRST": True} if name == "products" else {}
    constants |= {argument: None for argument in ABSENT[kind] if argument in kernel.arg_names}
    types, multiples = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        pointer = "*i64" if argument == "own" else "*fp32"
        types[argument] = "constexpr" if argument in constants else "i32" if argument in INTEGERS else pointer
        if argument not in constants and argument not in NO_MULTIPLES:
            multiples[(place,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, types, constants, multiples),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": shape.warps, "num_stages": shape.stages, "maxnreg": shape.registers},
    )
    registers, spilled = _resources(compiled.asm["cubin"])
    widths = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", compiled.asm["ptx"])
    narrow = sum(int(width, 0) < 16 for width in widths)
    metadata = compiled.metadata
    tensor_memory = getattr(metadata, "tmem_size", None) or 0
    return Compiled(registers, spilled, metadata.shared, tensor_memory, len(widths), narrow)


def _resources(machine_code: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack, of a thread."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if found is None:
        raise RuntimeError(f"cuobjdump tells no registers: {told}")
    return int(found[1]), int(found[2])
