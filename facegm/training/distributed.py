"""The processes of a run: one, or many under `torchrun`.

torchrun's own store outlives the processes, and with it what they had written there before they died: restarted ones
would wait for the dead (https://github.com/pytorch/pytorch/issues/135712). So each time process 0 begins a new store,
and torchrun's only says where.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__
from torch.distributed.rendezvous import rendezvous

from facegm.errors import FacegmError

Value = TypeVar("Value")
_PORT = "facegm/port"
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    local_size: int = 1
    """Processes of the run on this machine."""
    host_group: Any = None
    """The same processes, for what lies in the host's memory; None where there is one."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Average numbers over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def require_equal(self, name: str, value: str) -> None:
        """Stop on all processes where they differ in something that they must share.

        Raises:
            FacegmError: `value` differs between the processes.
        """
        if len(set(self.gather(value))) > 1:
            raise FacegmError(f"the processes of this run differ in {name}; give all the same data and configuration")

    def gather(self, value: Value) -> list[Value]:
        """What each process says, in the order of their ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where one process fails in this context, all do, so that none waits for it.

        Raises:
            FacegmError: that of the first process that had one.
        """
        error: FacegmError | None = None
        try:
            yield
        except FacegmError as found:
            error = found
        errors = [found for found in self.gather(error) if found is not None]
        if errors:
            raise errors[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


class SharedFlag:
    """A flag that any process may raise, and all see at the same call: one after, so that none waits for the others.

    Where there is one process it sees its own at once.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._flag = torch.zeros((), dtype=torch.int64)
        self._exchange: Any = None

    def exchange(self, is_raised: bool) -> bool:
        """Tell the others, and learn what was told at the call before; all processes call it equally often."""
        if self._processes.world_size == 1:
            return is_raised
        seen = self.settle()
        self._flag = torch.tensor(int(is_raised))
        group = self._processes.host_group
        self._exchange = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=group, async_op=True)
        return seen

    def settle(self) -> bool:
        """Learn what was told at the last call, if that was not learnt yet."""
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None
        return bool(self._flag)


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the process group that `torchrun` announces in the environment: NCCL on GPUs, gloo on CPUs.

    Raises:
        FacegmError: process 0 is not to be reached, or another one has ended while this one needed it.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Processes(rank=0, world_size=1, device=device)
        return
    _init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(
            rank=rank,
            world_size=world_size,
            device=device,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            host_group=dist.new_group(backend="gloo"),
        )
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise FacegmError(
            f"process {rank} has lost another process of this run, whose own message says why; the same command goes "
            f"on from the newest checkpoint ({reason})"
        ) from error
    finally:
        dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    if dist.is_torchelastic_launched():
        store, rank, world_size = next(rendezvous("env://"))
        dist.init_process_group(backend, store=_new_store(store, rank), rank=rank, world_size=world_size)
    else:
        dist.init_process_group(backend)


def _new_store(announcements: Store, rank: int) -> Store:
    host = os.environ["MASTER_ADDR"]  # the machine of process 0
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        announcements.set(_PORT, str(store.port))
        return store
    end = time.monotonic() + _PATIENCE.total_seconds()
    while not _is_open(host, port := int(announcements.get(_PORT))):  # that of one which has died
        if time.monotonic() > end:
            raise FacegmError(f"process {rank} finds no process 0 at {host}, port {port}")
        time.sleep(0.1)
    return TCPStore(host, port, is_master=False, timeout=_PATIENCE)


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
