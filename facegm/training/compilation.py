"""Whether and how a network is compiled by torch.compile."""

import logging
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from facegm.errors import FacegmError

logger = logging.getLogger(__name__)

Compilation = bool | Literal["auto"]
WORTH_IT = {"cpu": 1_000, "cuda": 5_000}
"""Steps of a run from which on faster ones make up for half a minute at the start, of a small network too."""


def compile_network(network: nn.Module, asked: Compilation, steps: int, *, say: bool) -> None:
    """Compile the network in its place where that is asked for, or pays and is possible.

    Args:
        network: on its device.
        asked: `train.compile` of a configuration.
        steps: of the run.
        say: whether to log what was chosen where the choice is left to this function.

    Raises:
        FacegmError: it is asked for, and this machine lacks what it needs.
    """
    device = next(network.parameters()).device
    if asked is False or (asked == "auto" and steps < WORTH_IT[device.type]):
        return
    missing = _missing(device)
    if missing is None:
        network.compile()
    elif asked is True:
        raise FacegmError(f"train.compile: torch.compile needs {missing}; install it, or set train.compile=false")
    elif say:
        logger.info(f"torch.compile needs {missing}, which is not here: steps will be slower than they could be")


def _missing(device: torch.device) -> str | None:
    """What the machine lacks for torch.compile: it generates C++ for a CPU, and for a GPU Triton's code and C."""
    compilers = [os.environ.get("CXX", "g++")]
    if device.type == "cuda":
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        if torch.cuda.get_device_capability(device) < (7, 0):
            return "a GPU of compute capability 7.0"
        if find_spec("triton") is None:
            return "Triton"
    if not any(map(shutil.which, compilers)):
        return f"the compiler {' or '.join(compilers)}"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return None if headers.is_file() else f"Python's headers ({headers}, of python3-dev)"
