"""Classes split over the processes of a run: each holds a part of the vectors, and they exchange a few numbers."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from facegm.losses.collectives import rank, world_size


@dataclass(frozen=True)
class Shard:
    """The classes `first` to `last` - 1 of `classes`, which this process holds; other processes hold the others."""

    first: int
    last: int
    classes: int

    @classmethod
    def whole(cls, classes: int) -> "Shard":
        """All classes in this process, however many others there are."""
        return cls(0, classes, classes)

    @classmethod
    def of_rank(cls, classes: int, rank: int, world_size: int) -> "Shard":
        """The part of a rank: parts differ by one class at the most.

        Raises:
            ValueError: there are fewer classes than processes.
        """
        if classes < world_size:
            raise ValueError(f"{classes} classes cannot be split over {world_size} processes")
        return cls(rank * classes // world_size, (rank + 1) * classes // world_size, classes)

    @classmethod
    def mine(cls, classes: int) -> "Shard":
        """The part of this process."""
        return cls.of_rank(classes, rank(), world_size())

    @property
    def is_split(self) -> bool:
        """Whether other processes hold classes."""
        return self.last - self.first < self.classes

    @property
    def is_first(self) -> bool:
        """Whether this process counts what belongs to no class, and must count once."""
        return self.first == 0

    def local(self, labels: Tensor) -> Tensor:
        """Labels counted from this part's first class; outside 0 to last - first - 1 for other processes' classes.

        Raises:
            ValueError: a label is no class at all; on a GPU, where looking would stall it, a device-side assertion.
        """
        valid = ((labels >= 0) & (labels < self.classes)).all()
        if labels.device.type == "cpu" and not valid:
            raise ValueError(f"labels must be from 0 to {self.classes - 1}, found {labels.min()} to {labels.max()}")
        torch._assert_async(valid)
        return labels - self.first

    def sum(self, local: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.is_split:
            dist.all_reduce(local)
        return local

    def sum_of_parts(self, local: Tensor) -> Tensor:
        """Sum over the processes, of which each has the gradient of its own part."""
        return local + (self.sum(local.detach().clone()) - local.detach()) if self.is_split else local

    def maximum(self, local: Tensor) -> Tensor:
        """Maximum over the processes, in place."""
        if self.is_split:
            dist.all_reduce(local, dist.ReduceOp.MAX)
        return local

    def whole_of(self, part: Tensor) -> Tensor:
        """All parts' rows, on the CPU of the process that holds the first classes; this part's own elsewhere."""
        if not self.is_first:
            dist.send(part.contiguous(), dst=0)
            return part
        rows = [part.cpu()]
        for other in range(1, world_size()):
            shard = Shard.of_rank(self.classes, other, world_size())
            received = part.new_empty(shard.last - shard.first, *part.shape[1:])
            dist.recv(received, src=other)
            rows.append(received.cpu())
        return torch.cat(rows)

    def part_of(self, whole: Tensor) -> Tensor:
        """This part's rows, in memory of their own."""
        return whole[self.first : self.last].clone()
