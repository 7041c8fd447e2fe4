"""What a machine has: versions of the software, and devices."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import torch

from facegm.data.machine import cores, free_memory
from facegm.training.devices import autocast_dtype
from facegm.training.room import SHARED_MEMORY

_PACKAGES = ("facegm", "torch", "torchvision", "facenet-pytorch", "numpy")
_EXTRAS = ("openvino", "ray")
SMALL_SHARED_MEMORY = 1000
"""Megabytes; below it a warning is due."""


def versions() -> dict[str, str]:
    """Versions by name of the package; what comes with an extra may not be installed."""
    found = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    found["opencv"] = cv2.__version__
    if torch.version.cuda:
        cudnn = torch.backends.cudnn.version()
        found |= {"CUDA": torch.version.cuda, "cuDNN": str(cudnn or "not found")}
    return found | {name: _version_of_extra(name) for name in _EXTRAS}


def _version_of_extra(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f'not installed (pip install "facegm[{name}]")'


def devices() -> dict[str, str]:
    """The processor and each GPU, a line each; and what is short."""
    computes = "bfloat16" if autocast_dtype("auto", torch.device("cpu")) else "float32"
    processor = f"{processor_name()}, {cores()} core(s), {free_memory() / 1e9:.1f} GB free, computes in {computes}"
    gpus = {"GPU": "none"} if not torch.cuda.is_available() else {}
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        gpus[f"GPU {number}"] = (
            f"{found.name}, {found.total_memory / 1e9:.1f} GB, compute capability {found.major}.{found.minor}"
        )
    return {"processor": processor} | _load() | _shared_memory() | gpus


def _load() -> dict[str, str]:
    """A warning where other programs keep the processor busy, since then all measurements come out too slow."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < cores() / 2:
        return {}
    return {"load": f"{load:.1f} on {cores()} core(s): other programs are busy, and what is measured will be too slow"}


def _shared_memory() -> dict[str, str]:
    """A warning where there is as little as containers are given."""
    if not SHARED_MEMORY.is_dir():
        return {}
    found = os.statvfs(SHARED_MEMORY)
    free = found.f_bavail * found.f_frsize / 1e6
    if free >= SMALL_SHARED_MEMORY:
        return {}
    return {
        str(SHARED_MEMORY): f"{free:.0f} MB free: too little for large batches that workers decode; "
        "give a container more (docker run --shm-size=8g)"
    }


def processor_name() -> str:
    """The processor's name, which Linux says in a file alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
