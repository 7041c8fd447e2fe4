"""The processes of a run: one, or many under `torchrun`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from facegm.errors import FacegmError
from facegm.training.rendezvous import init_process_group


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    local_size: int = 1
    """Processes of the run on this machine."""
    host_group: Any = None
    """The same processes, for what lies in the host's memory; None for the default group."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def mean(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Average named numbers over all processes; the host waits for the device."""
        values = torch.stack([value.detach().to(torch.float64) for value in terms.values()])
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return dict(zip(terms, values.tolist(), strict=True))

    def require_equal(self, name: str, value: str) -> None:
        """Stop on all processes where they differ in something that they must share.

        Raises:
            FacegmError: `value` differs between the processes.
        """
        if self.world_size > 1:
            values: list[str] = [""] * self.world_size
            dist.all_gather_object(values, value)
            if len(set(values)) > 1:
                raise FacegmError(
                    f"the processes of this run differ in {name}; give all the same data and configuration"
                )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the host waits for the others, but not for the device."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.host_group)
        return bool(flags)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the process group that `torchrun` announces in the environment: NCCL on GPUs, gloo on CPUs."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Processes(rank=0, world_size=1, device=device)
        return
    init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(
            rank=rank,
            world_size=world_size,
            device=device,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            host_group=dist.new_group(backend="gloo") if device.type == "cuda" else None,
        )
    finally:
        dist.destroy_process_group()


def autocast_dtype(
    precision: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device
) -> torch.dtype | None:
    """Precision of the network's products, None for float32; auto takes the shortest that the hardware is fast in."""
    if precision != "auto":
        return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else None


def _cpu_has_bfloat16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.11 cannot tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
