"""Batch normalisation over processes against torch's own layer on the whole batch, in double precision.

As a script under torchrun, this file runs all cases on the processes there are.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from facegm.training.sync_batch_norm import HostSyncBatchNorm, synchronise_batch_norm

Torchrun = Callable[[int, Sequence[str], Path], CompletedProcess[str]]
CHANNELS, BATCH, STEPS = 5, 12, 3
CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "2d": (nn.BatchNorm2d, (4, 3), {}),
    "1d": (nn.BatchNorm1d, (), {}),
    "1d of sequences": (nn.BatchNorm1d, (7,), {}),
    "3d": (nn.BatchNorm3d, (2, 3, 2), {}),
    "slow": (nn.BatchNorm2d, (4, 3), {"momentum": 0.02, "eps": 0.3}),
    "cumulative": (nn.BatchNorm2d, (4, 3), {"momentum": None}),
    "without weights": (nn.BatchNorm2d, (4, 3), {"affine": False}),
    "without running statistics": (nn.BatchNorm2d, (4, 3), {"track_running_stats": False}),
}
"""Layer, shape of a channel, and settings."""


def outcome(name: str, *, processes: int = 1, rank: int = 0) -> dict[str, Tensor]:
    """What some steps on this process's rows of the batch, and an evaluation, give: rows, and sums over them."""
    kind, shape, settings = CASES[name]
    mine = slice(rank * BATCH // processes, (rank + 1) * BATCH // processes)
    generator = torch.Generator().manual_seed(1)

    def numbers(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    network = nn.Sequential(kind(CHANNELS, **settings)).double()
    for parameter in network.parameters():
        parameter.data = numbers(CHANNELS)
    found: dict[str, Tensor] = {}
    network = synchronise_batch_norm(network)  # type: ignore[assignment]
    for step in range(STEPS):
        # Far from 0, where a variance by the mean of squares would lose digits.
        x = (numbers(BATCH, CHANNELS, *shape) * 2 + 100)[mine].requires_grad_()
        y = network(x)
        (y * numbers(BATCH, CHANNELS, *shape)[mine]).sum().backward()
        assert x.grad is not None
        found |= {f"output {step}": y.detach(), f"input's gradient {step}": x.grad}
    found["evaluation"] = network.eval()(numbers(BATCH, CHANNELS, *shape)[mine]).detach()
    if processes > 1:
        assert isinstance(network[0], HostSyncBatchNorm)
        for key, rows in found.items():
            gathered = [torch.empty_like(rows) for _ in range(processes)]
            dist.all_gather(gathered, rows.contiguous())
            found[key] = torch.cat(gathered)
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None
        if processes > 1:
            dist.all_reduce(parameter.grad)
        found[f"{key}'s gradient"] = parameter.grad
    return found | network.state_dict()


@pytest.fixture(scope="module")
def of_two_processes(torchrun: Torchrun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(2, [__file__, "outcomes.pt"], folder)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, dict[str, Tensor]] = torch.load(folder / "outcomes.pt", weights_only=True)
    return outcomes


@pytest.mark.parametrize("name", CASES)
def test_two_processes_normalise_as_one_does_the_whole_batch(
    name: str, of_two_processes: dict[str, dict[str, Tensor]]
) -> None:
    found, expected = of_two_processes[name], outcome(name)
    if name == "without running statistics":  # by the statistics of what each process evaluates, as in torch's own
        del found["evaluation"], expected["evaluation"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_process_alone_keeps_its_layers() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(3)))
    layers = list(network.modules())
    assert synchronise_batch_norm(network) is network
    assert all(now is before for now, before in zip(network.modules(), layers, strict=True))


def test_what_is_frozen_or_evaluated_stays_so() -> None:
    layer = nn.BatchNorm2d(3).eval()
    layer.weight.requires_grad_(False)
    made = HostSyncBatchNorm.of(layer)
    assert made.weight is layer.weight
    assert not made.weight.requires_grad
    assert not made.training


def main() -> None:
    dist.init_process_group("gloo")
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    outcomes = {name: outcome(name, processes=processes, rank=rank) for name in CASES}
    if rank == 0:
        torch.save(outcomes, sys.argv[1])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
