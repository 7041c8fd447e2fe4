"""A million identities: time and memory of a training step, two gloo processes on this machine; `make bench-million`.

A step is all of one but the network: a linear layer in its place, the loss with its 512-dimensional class vectors split
over the processes, clipping, and SGD with momentum, a batch of 256 in all. With all classes, and with a tenth of them
drawn in each step. Each process has one thread; memory is the most that it held in a step, vectors and libraries and
what the allocator keeps. Ten minutes on two cores, and 14 GB for both processes together.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import torch
from interleaved import write_results
from peak_memory import reset_peak, resident_bytes
from torch import Tensor, nn

from facegm.data.samples import Batch
from facegm.losses.config import LossConfig, build_loss
from facegm.schedule import Progress
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.devices import prepare
from facegm.training.distributed import Processes, join_processes
from facegm.training.loop import Trainer
from facegm.training.task import Task

DIM, BATCH, PROCESSES, STEPS = 512, 256, 2, 3
LOSSES, SHARES = ["gm", "softmax", "arcface"], [1.0, 0.1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
TORCHRUN += ["--local_addr", "127.0.0.1"]  # else it asks a name server for this machine


class HeadTask(Task[nn.Linear]):
    """Features through a linear layer, which stands for a network."""

    def inputs(self, batch: Batch) -> Tensor:
        return batch.images


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES)
    options.add_argument("--shares", nargs="*", type=float, default=SHARES)
    options.add_argument("--classes", type=int, default=1_000_000)
    options.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)  # in one of the processes
    asked = options.parse_args()
    if asked.rank:
        with join_processes() as processes:
            measure_steps(asked.losses[0], asked.shares[0], asked.classes, processes)
        return
    rows: list[dict[str, object]] = []
    for loss in asked.losses:
        for share in asked.shares:
            size = ["--losses", loss, "--shares", str(share), "--classes", str(asked.classes)]
            command = [*TORCHRUN, __file__, *size, "--rank"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout))
    write_results("million", rows)


def measure_steps(name: str, share: float, classes: int, processes: Processes) -> None:
    """Take some steps; the main process prints a row, of the slower process and the larger one."""
    torch.set_num_threads(1)
    prepare(processes.device)
    torch.manual_seed(0)
    config = LossConfig(name=name)  # type: ignore[arg-type]
    chosen = replace(config.chosen, negative_share=share, shard_means=True)
    task = HeadTask(nn.Linear(DIM, DIM), build_loss(replace(config, **{name: chosen}), classes, DIM))
    trainer = Trainer(task, OptimizerConfig(), TrainConfig(precision="float32"), processes)
    torch.manual_seed(processes.rank)
    size = BATCH // processes.world_size
    batches = [Batch(torch.randn(size, DIM), torch.randint(classes, (size,))) for _ in range(STEPS + 1)]
    seconds, of_processor = [], []
    for step, batch in enumerate(batches):  # the first warms up
        if step == 1:
            reset_peak()
        start, start_of_processor = time.perf_counter(), time.process_time()
        trainer.step(batch, Progress(step, STEPS + 1), lambda _: None)
        seconds.append(time.perf_counter() - start)
        of_processor.append(time.process_time() - start_of_processor)
    found = processes.gather((median(seconds[1:]), median(of_processor[1:]), resident_bytes("VmHWM")))
    times, times_of_processor, peaks = zip(*found, strict=True)
    row = {"loss": name, "classes": classes, "dim": DIM, "batch": BATCH, "processes": PROCESSES, "drawn_share": share}
    measured = {"median_s": max(times), "min_s": min(seconds[1:]), "processor_s": max(times_of_processor)}
    measured["peak_gb"] = max(peaks) / 1e9
    if processes.is_main:
        print(json.dumps(row | {"steps": STEPS} | {key: round(value, 3) for key, value in measured.items()}))


if __name__ == "__main__":
    main()
