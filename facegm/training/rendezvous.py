"""How the processes of a run find each other, also after torchrun has restarted them.

torchrun's own store outlives the processes, and with it what they had written there before they died: restarted ones
would wait for the dead (https://github.com/pytorch/pytorch/issues/135712). So each time process 0 begins a new store,
and torchrun's only says where.
"""

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__
from torch.distributed.rendezvous import rendezvous

from facegm.errors import FacegmError

_PORT = "facegm/port"
_PATIENCE = timedelta(minutes=10)


def init_process_group(backend: str) -> None:
    """Join the process group that the environment announces, as torchrun or another launcher has set it.

    Raises:
        FacegmError: process 0 is not to be reached.
    """
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
