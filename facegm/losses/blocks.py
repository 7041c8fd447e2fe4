"""The GM loss by matrix products, one block of classes at a time, on any device."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facegm.losses.engine import LEAST, Engine, Operands, Others, Position, Weights


@dataclass(frozen=True)
class Blocks(Engine):
    """Streams over blocks of means.

    Logits lie class by sample in memory, so that all products read and write rows. Where the means have to be shifted,
    a block of them is made, used and overwritten while it is in the processor's cache.
    """

    size: int
    """Classes in a block."""

    def locate(self, batch: Operands) -> Position:
        """Compare samples with their own class."""
        x = batch.x
        is_here = batch.is_here
        m = batch.means.index_select(0, batch.row)
        if batch.origin is not None:
            m -= batch.origin
        own_logit = (x * m).sum(dim=1) - 0.5 * _squared_norms(m)
        own_squared_distance = _squared_norms(torch.sub(x, m, out=m))
        return Position(_squared_norms(x), own_squared_distance * is_here, own_logit * is_here)

    def gradients(self, batch: Operands, kept: Any, weights: Weights) -> tuple[Tensor, Tensor]:
        """Sum up what samples and classes do to each other."""
        x = batch.x
        of_samples, of_block = self._factors(batch, x, kept, weights)
        scaled_x = x * (weights.scale * of_samples)[:, None]
        toward_center = -weights.pull * weights.center
        weighted_means, gradient = torch.zeros_like(x), torch.empty_like(batch.means)
        for block, m in self._centred(batch):
            factors = of_block(block, m)
            weighted_means.addmm_(factors.T, m)
            of_mean = torch.mv(factors, of_samples).mul_(-weights.scale).add_(weights.pull)
            torch.addcmul(toward_center, m, of_mean[:, None], out=gradient[block]).addmm_(factors, scaled_x)
        return weighted_means.mul_(of_samples[:, None]), gradient

    @abstractmethod
    def _factors(
        self, batch: Operands, x: Tensor, kept: Any, weights: Weights
    ) -> tuple[Tensor, Callable[[slice, Tensor], Tensor]]:
        """The weights as products: a factor of each sample, and from a block and its means one of class and sample."""

    def _centred(self, batch: Operands) -> Iterator[tuple[slice, Tensor]]:
        """Each block and its means minus the origin, which the next block's may overwrite."""
        if batch.origin is None:
            yield from ((block, batch.means[block]) for block in self._blocks(batch))
            return
        scratch = self._scratch(batch.means, batch.means.shape[1])
        for block in self._blocks(batch):
            yield block, torch.sub(batch.means[block], batch.origin, out=scratch[: block.stop - block.start])

    def _blocks(self, batch: Operands) -> Iterator[slice]:
        for start in range(0, len(batch.means), self.size):
            yield slice(start, min(start + self.size, len(batch.means)))

    def _scratch(self, means: Tensor, width: int) -> Tensor:
        return means.new_empty(min(self.size, len(means)), width)


class Dense(Blocks):
    """Holds all exponentials, and computes them once."""

    def compare(self, batch: Operands) -> tuple[Others, tuple[Tensor, Tensor]]:
        """Compare samples with all other classes; keep their exponentials relative to each sample's largest."""
        x, means = batch.x, batch.means
        logits, squared_norms = means.new_empty(len(means), len(x)), means.new_empty(len(means))
        maximum, exponentials, total = x.new_full((len(x),), LEAST), x.new_zeros(len(x)), torch.zeros_like(means[0])
        for block, m in self._centred(batch):
            products = torch.mm(m, x.T, out=logits[block])  # first, since it hides the means' way from memory
            total += m.sum(dim=0)
            _add_biases(batch, block, products, _squared_norms(m, out=squared_norms[block]))
            maximum = torch.maximum(maximum, _put_own(logits[block], batch.own - block.start, LEAST).amax(dim=0))
        for block in self._blocks(batch):
            exponentials += _exponentiate(logits[block], maximum).sum(dim=0)
        others = Others(maximum, maximum + exponentials.log(), total, squared_norms.sum())
        return others, (logits, maximum)

    def _factors(
        self, batch: Operands, x: Tensor, kept: tuple[Tensor, Tensor] | None, weights: Weights
    ) -> tuple[Tensor, Callable[[slice, Tensor], Tensor]]:
        exponentials, maximum = kept or self.compare(batch)[1]
        of_samples = (maximum - weights.log_normalizer).clamp_min_(_lowest_exponent(x)).exp_()
        _put_own(exponentials, batch.own, weights.own / of_samples)
        return of_samples, lambda block, _: exponentials[block]


class Chunked(Blocks):
    """Never holds the logits of more than a block, and computes them twice."""

    def compare(self, batch: Operands) -> tuple[Others, Tensor]:
        """Compare samples with all other classes by a running log-sum-exp; keep the means' squared norms."""
        x, means = batch.x, batch.means
        scratch, squared_norms = self._scratch(means, len(x)), means.new_empty(len(means))
        maximum, exponentials, total = x.new_full((len(x),), LEAST), x.new_zeros(len(x)), torch.zeros_like(means[0])
        for block, m in self._centred(batch):
            products = torch.mm(m, x.T, out=scratch[: len(m)])
            total += m.sum(dim=0)
            logits = _add_biases(batch, block, products, _squared_norms(m, out=squared_norms[block]))
            _put_own(logits, batch.own - block.start, LEAST)
            new_maximum = torch.maximum(maximum, logits.amax(dim=0))
            exponentials *= (maximum - new_maximum).exp_()
            exponentials += _exponentiate(logits, new_maximum).sum(dim=0)
            maximum = new_maximum
        return Others(maximum, maximum + exponentials.log(), total, squared_norms.sum()), squared_norms

    def _factors(
        self, batch: Operands, x: Tensor, kept: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Callable[[slice, Tensor], Tensor]]:
        squared_norms = self.compare(batch)[1] if kept is None else kept
        scratch = self._scratch(batch.means, len(x))

        def of_block(block: slice, m: Tensor) -> Tensor:
            products = torch.mm(m, x.T, out=scratch[: len(m)])
            logits = _add_biases(batch, block, products, squared_norms[block])
            return _put_own(_exponentiate(logits, weights.log_normalizer), batch.own - block.start, weights.own)

        return torch.ones_like(weights.own), of_block


def _add_biases(batch: Operands, block: slice, products: Tensor, squared_norms: Tensor) -> Tensor:
    """Make the products of a block's classes their logits."""
    biases = squared_norms * -0.5
    if batch.log_weights is not None:
        biases += batch.log_weights[block]
    return products.add_(biases[:, None])


def _put_own(of_classes: Tensor, own: Tensor, values: Tensor | float) -> Tensor:
    """Write each sample's value at its own class, where that is among the rows."""
    row = own.clamp(0, len(of_classes) - 1)[None]
    return of_classes.scatter_(0, row, torch.where(row == own, values, of_classes.gather(0, row)))


def _exponentiate(logits: Tensor, reference: Tensor) -> Tensor:
    """Exponentials relative to each sample's reference, in place; what is negligible stays a little above zero."""
    return logits.sub_(reference).clamp_min_(_lowest_exponent(logits)).exp_()


def _lowest_exponent(like: Tensor) -> float:
    """Logarithm of what is negligible beside 1.

    The product of two such numbers is still a normal number: processors are many times slower with denormal ones.
    """
    return {torch.float32: -35.0, torch.float64: -280.0}[like.dtype]


def _squared_norms(rows: Tensor, out: Tensor | None = None) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, out=out)
    return norms.square_()
