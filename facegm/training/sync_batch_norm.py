"""Batch normalisation by the statistics of all processes' samples, so that their number does not matter."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facegm.losses.collectives import world_size


def synchronise_batch_norm(network: nn.Module) -> nn.Module:
    """The network with torch's synchronised layers on GPUs, and on CPUs, for which torch has none, with its own."""
    if world_size() == 1:
        return network
    if dist.get_backend() == "nccl":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, HostSyncBatchNorm):
                setattr(module, name, HostSyncBatchNorm.of(child))
    return network


class HostSyncBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of all processes, by any backend; each has equally many samples.

    Evaluation is that of the layer that it replaces.
    """

    @classmethod
    def of(cls, layer: _BatchNorm) -> "HostSyncBatchNorm":
        """A layer with the weights and running statistics of another, which are not copied."""
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            setattr(made, name, tensor)
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise each channel of [batch, channels, ...]."""
        if not self.training:
            return super().forward(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        over = [0, *range(2, values.ndim)]
        count = values.numel() // values.shape[1] * world_size()
        shape = [1, -1] + [1] * (values.ndim - 2)
        mean = _sum_of_all(values.sum(dim=over)) / count
        centred = values - mean.view(shape)
        variance = _sum_of_all(centred.square().sum(dim=over)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), rate)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), rate)
        weight = 1.0 if self.weight is None else self.weight.view(shape)
        bias = 0.0 if self.bias is None else self.bias.view(shape)
        scale = weight * (variance + self.eps).rsqrt().view(shape)
        normalised: Tensor = (centred * scale + bias).to(input.dtype)
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.ndim < 2:
            raise ValueError(f"expected [batch, channels, ...], found {input.ndim} dimension(s)")


class _SumOfAll(torch.autograd.Function):
    """A sum over all processes that each goes on with: so the gradient is the sum of what each finds.

    That of `torch.distributed.nn` is deprecated, and leaves the whole network uncompiled.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        return _SumOfAll.summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return _SumOfAll.summed(gradient)

    @staticmethod
    def summed(values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


_sum_of_all: Callable[[Tensor], Tensor] = torch.compiler.disable(_SumOfAll.apply)  # what is between is compiled
