"""Classification by matrix products, one block of classes at a time, on any device."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facegm.losses.engine import LEAST, LEAST_LENGTH, Engine, Operands, Others, Weights


class Sums(NamedTuple):
    """What is found out about the classes by themselves, in one pass."""

    sizes: Tensor
    """Of distances ||v_k||^2, of cosines 1 / ||w_k||. Shape [classes]."""
    total: Tensor
    """Sum of the v_k so far. Shape [dim]."""


@dataclass(frozen=True)
class Blocks(Engine):
    """Streams over blocks of class vectors.

    Logits lie class by sample in memory, so that all products read and write rows. Where the vectors have to be
    shifted, a block of them is made, used and overwritten while it is in the processor's cache. The vectors of cosines
    are left as they are: it is their products that are scaled.
    """

    size: int
    """Classes in a block."""

    def gradients(self, batch: Operands, kept: Any, weights: Weights) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sum up what samples and classes do to each other."""
        sizes, of_samples, of_block = self._factors(batch, kept, weights)
        scaled_x = batch.x * (weights.scale * of_samples)[:, None]
        weighted, gradient = torch.zeros_like(batch.x), torch.empty_like(batch.vectors)
        of_bias = None if batch.bias is None else torch.empty_like(batch.bias)
        for block, v in self._vectors(batch):
            factors, out = of_block(block, v), gradient[block]
            if batch.kind == "cosines":
                factors.mul_(sizes[block, None])
            weighted.addmm_(factors.T, v)
            if batch.kind == "distances":
                of_vector, of_all = torch.mv(factors, of_samples).mul_(-weights.scale), weights.of_total
                if batch.log_weights is None:
                    of_vector += 2 * weights.of_spread
                else:
                    weight = batch.log_weights[block].exp()
                    of_vector, of_all = of_vector + 2 * weights.of_spread * weight, weight[:, None] * of_all
                torch.addcmul(of_all, v, of_vector[:, None], out=out).addmm_(factors, scaled_x)
                continue
            torch.mm(factors, scaled_x, out=out)
            if batch.kind == "cosines":
                _project(out, v, sizes[block])
            elif of_bias is not None:
                torch.mv(factors, of_samples * weights.scale, out=of_bias[block])
        return weighted.mul_(of_samples[:, None]), gradient, of_bias

    @abstractmethod
    def _factors(
        self, batch: Operands, kept: Any, weights: Weights
    ) -> tuple[Tensor, Tensor, Callable[[slice, Tensor], Tensor]]:
        """The classes' sizes; and the weights as products of a factor of each sample and one of class and sample.

        The latter, of a block and its vectors, may be overwritten.
        """

    def _vectors(self, batch: Operands) -> Iterator[tuple[slice, Tensor]]:
        """Each block and its vectors minus the origin, which the next block's may overwrite."""
        if batch.origin is None:
            yield from ((block, batch.vectors[block]) for block in self._blocks(batch))
            return
        scratch = self._scratch(batch.vectors, batch.vectors.shape[1])
        for block in self._blocks(batch):
            yield block, torch.sub(batch.vectors[block], batch.origin, out=scratch[: block.stop - block.start])

    def _blocks(self, batch: Operands) -> Iterator[slice]:
        for start in range(0, len(batch.vectors), self.size):
            yield slice(start, min(start + self.size, len(batch.vectors)))

    def _scratch(self, vectors: Tensor, width: int) -> Tensor:
        return vectors.new_empty(min(self.size, len(vectors)), width)


class Dense(Blocks):
    """Holds all exponentials, and computes them once."""

    def compare(self, batch: Operands) -> tuple[Others, tuple[Tensor, Tensor, Tensor]]:
        """Compare samples with all other classes; keep their exponentials relative to each sample's largest."""
        x, sums = batch.x, _no_sums(batch)
        logits = x.new_empty(len(batch.vectors), len(x))
        maximum, exponentials = x.new_full((len(x),), LEAST), x.new_zeros(len(x))
        for block, v in self._vectors(batch):
            products = torch.mm(v, x.T, out=logits[block])  # first, since it hides the vectors' way from memory
            _add_up(batch, block, v, sums)
            _to_logits(batch, block, products, sums.sizes)
            maximum = torch.maximum(maximum, _put_own(logits[block], batch.own - block.start, LEAST).amax(dim=0))
        for block in self._blocks(batch):
            exponentials += _exponentiate(logits[block], maximum).sum(dim=0)
        return _others(batch, maximum, exponentials, sums), (logits, maximum, sums.sizes)

    def _factors(
        self, batch: Operands, kept: tuple[Tensor, Tensor, Tensor] | None, weights: Weights
    ) -> tuple[Tensor, Tensor, Callable[[slice, Tensor], Tensor]]:
        exponentials, maximum, sizes = kept or self.compare(batch)[1]
        of_samples = (maximum - weights.log_normalizer).clamp_min_(_lowest_exponent(maximum)).exp_()
        _put_own(exponentials, batch.own, weights.own / of_samples)
        return sizes, of_samples, lambda block, _: exponentials[block]


class Chunked(Blocks):
    """Never holds the logits of more than a block, and computes them twice."""

    def compare(self, batch: Operands) -> tuple[Others, Tensor]:
        """Compare samples with all other classes by a running log-sum-exp; keep the classes' sizes."""
        x, sums = batch.x, _no_sums(batch)
        scratch = self._scratch(batch.vectors, len(x))
        maximum, exponentials = x.new_full((len(x),), LEAST), x.new_zeros(len(x))
        for block, v in self._vectors(batch):
            products = torch.mm(v, x.T, out=scratch[: len(v)])
            _add_up(batch, block, v, sums)
            logits = _put_own(_to_logits(batch, block, products, sums.sizes), batch.own - block.start, LEAST)
            new_maximum = torch.maximum(maximum, logits.amax(dim=0))
            exponentials *= (maximum - new_maximum).exp_()
            exponentials += _exponentiate(logits, new_maximum).sum(dim=0)
            maximum = new_maximum
        return _others(batch, maximum, exponentials, sums), sums.sizes

    def _factors(
        self, batch: Operands, kept: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Tensor, Callable[[slice, Tensor], Tensor]]:
        sizes = self.compare(batch)[1] if kept is None else kept
        scratch = self._scratch(batch.vectors, len(batch.x))

        def of_block(block: slice, v: Tensor) -> Tensor:
            logits = _to_logits(batch, block, torch.mm(v, batch.x.T, out=scratch[: len(v)]), sizes)
            return _put_own(_exponentiate(logits, weights.log_normalizer), batch.own - block.start, weights.own)

        return sizes, torch.ones_like(weights.own), of_block


def _no_sums(batch: Operands) -> Sums:
    classes, dim = batch.vectors.shape
    return Sums(batch.vectors.new_empty(0 if batch.kind == "products" else classes), batch.vectors.new_zeros(dim))


def _add_up(batch: Operands, block: slice, v: Tensor, sums: Sums) -> None:
    """Take in a block's classes."""
    if batch.kind == "distances":
        sums.total.add_(v.sum(dim=0) if batch.log_weights is None else batch.log_weights[block].exp() @ v)
        torch.linalg.vector_norm(v, dim=1, out=sums.sizes[block]).square_()
    elif batch.kind == "cosines":
        torch.linalg.vector_norm(v, dim=1, out=sums.sizes[block]).clamp_min_(LEAST_LENGTH).reciprocal_()


def _others(batch: Operands, maximum: Tensor, exponentials: Tensor, sums: Sums) -> Others:
    spread = sums.total.new_zeros(())
    if batch.kind == "distances":
        spread = (sums.sizes if batch.log_weights is None else sums.sizes * batch.log_weights.exp()).sum()
    return Others(maximum, maximum + exponentials.log(), sums.total, spread)


def _to_logits(batch: Operands, block: slice, products: Tensor, sizes: Tensor) -> Tensor:
    """Make the products of a block's classes their logits."""
    if batch.kind == "cosines":
        products.mul_(sizes[block, None])
    biases = [sizes[block] * -0.5] if batch.kind == "distances" else []
    biases += [of_all[block] for of_all in (batch.bias, batch.log_weights) if of_all is not None]
    return products.add_(sum(biases[1:], biases[0])[:, None]) if biases else products


def _project(gradients: Tensor, vectors: Tensor, inverse_lengths: Tensor) -> None:
    """Take from gradients their part along the vectors, in place; on a CPU a few at a time, which stay in its cache."""
    size = 256 if vectors.device.type == "cpu" else len(vectors)
    for g, w, r in zip(gradients.split(size), vectors.split(size), inverse_lengths.split(size), strict=True):
        g.addcmul_(w, (torch.linalg.vecdot(g, w) * -r.square())[:, None])


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
