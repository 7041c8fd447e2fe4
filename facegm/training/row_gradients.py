"""Steps by gradients of a few rows: a loss that draws its classes knows nothing of the other class vectors.

Such a gradient is a sparse tensor in coordinate format of whole rows. torch's SGD would decay and move all rows by it,
and its AdamW refuses it; here the other rows stay as they are, momentum and decay too, as with Partial FC (An et al.,
CVPR 2022), and cost nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer


class _Lazy(Optimizer):
    """An optimiser that leaves rows alone of which a parameter's gradient says nothing.

    A sparse gradient has each row once; a dense one is all of torch's.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step of torch's, in which rows with a gradient stand for their parameter."""
        with _rows_alone(self):
            return super().step(closure)


class LazySGD(_Lazy, SGD):
    """torch's SGD, lazy where a gradient is sparse."""


class LazyAdamW(_Lazy, AdamW):
    """torch's AdamW, lazy where a gradient is sparse; its bias correction counts the steps of the whole parameter."""


def with_dense_gradient(parameter: Tensor) -> Tensor:
    """The parameter, or, where its gradient is sparse, a tensor whose gradient is its rows, in the same memory."""
    if parameter.grad is None or not parameter.grad.is_sparse:
        return parameter
    values = parameter.grad._values()
    bearer = values.detach()
    bearer.grad = values
    return bearer


class _Rows(NamedTuple):
    """A part of a parameter."""

    parameter: Tensor
    numbers: Tensor
    """Which rows; shape [rows]."""
    values: nn.Parameter
    """A copy of them, with their gradient."""


@contextmanager
def _rows_alone(optimizer: Optimizer) -> Iterator[None]:
    """Put rows that have a gradient in the place of their parameter, and back after what is done with them."""
    wholes = [group["params"] for group in optimizer.param_groups]
    taken: list[_Rows] = []
    for group in optimizer.param_groups:
        group["params"] = [_take(optimizer, parameter, taken) for parameter in group["params"]]
    try:
        yield
    finally:
        for group, parameters in zip(optimizer.param_groups, wholes, strict=True):
            group["params"] = parameters
        for rows in taken:
            _put_back(optimizer, rows)


def _take(optimizer: Optimizer, parameter: Tensor, taken: list[_Rows]) -> Tensor:
    """The parameter itself, or a copy of its rows with their gradient and state, which is noted."""
    if parameter.grad is None or not parameter.grad.is_sparse:
        return parameter
    numbers = parameter.grad._indices()[0]
    values = nn.Parameter(parameter.detach().index_select(0, numbers))
    values.grad = parameter.grad._values()
    for name, state in optimizer.state.get(parameter, {}).items():
        is_split = isinstance(state, Tensor) and state.shape == parameter.shape
        optimizer.state[values][name] = state.index_select(0, numbers) if is_split else state
    taken.append(_Rows(parameter, numbers, values))
    return values


@torch.no_grad()
def _put_back(optimizer: Optimizer, rows: _Rows) -> None:
    """Write rows and their state where they were taken; state that is new is 0 for the other rows."""
    rows.parameter.index_copy_(0, rows.numbers, rows.values)
    for name, state in optimizer.state.pop(rows.values, {}).items():
        whole = optimizer.state[rows.parameter]
        if not isinstance(state, Tensor) or state.shape != rows.values.shape:
            whole[name] = state
            continue
        if whole.get(name) is None:
            whole[name] = torch.zeros_like(rows.parameter, memory_format=torch.preserve_format)
        whole[name].index_copy_(0, rows.numbers, state)
