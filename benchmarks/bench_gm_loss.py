"""The GM loss, forward and backward, against its three bare matrix products, `cdist`, and broadcasting."""

from functools import partial

import torch
from interleaved import measure, write_results
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses.gm import gm_loss

BATCH, DIM = 256, 512


def products(x: Tensor, mu: Tensor, gradient: Tensor) -> None:
    """The floor: one product forward, two backward."""
    torch.mm(x, mu.T)
    torch.mm(gradient, mu)
    torch.mm(gradient.T, x)


def facegm(x: Tensor, mu: Tensor, labels: Tensor) -> None:
    gm_loss(x, mu, labels, alpha=0.01, likelihood_weight=0.001).total.backward()


def by_cdist(x: Tensor, mu: Tensor, labels: Tensor) -> None:
    squared = torch.cdist(x, mu).square()
    margin = torch.zeros_like(squared).scatter(1, labels[:, None], 0.01)
    (cross_entropy(-0.5 * (1 + margin) * squared, labels) + 0.001 * squared.mean()).backward()


def by_broadcasting(x: Tensor, mu: Tensor, labels: Tensor) -> None:
    squared = (x[:, None] - mu).square().sum(dim=2)
    margin = torch.zeros_like(squared).scatter(1, labels[:, None], 0.01)
    (cross_entropy(-0.5 * (1 + margin) * squared, labels) + 0.001 * squared.mean()).backward()


def main() -> None:
    rows = []
    for classes, runs in ((1_000, 7), (10_575, 7), (100_000, 3)):
        torch.manual_seed(0)
        x, mu = torch.randn(BATCH, DIM, requires_grad=True), torch.randn(classes, DIM, requires_grad=True)
        labels, gradient = torch.randint(classes, (BATCH,)), torch.randn(BATCH, classes)
        ways = {
            "three products": partial(products, x.detach(), mu.detach(), gradient),
            "facegm": partial(facegm, x, mu, labels),
            "cdist": partial(by_cdist, x, mu, labels),
        }
        if classes == 1_000:  # needs BATCH x classes x DIM numbers: 0.5 GB here, 5.5 GB at 10,575
            ways["broadcasting"] = partial(by_broadcasting, x, mu, labels)
        rows += [{"classes": classes, **row} for row in measure(ways, runs=runs)]
    write_results("gm_loss", rows)


if __name__ == "__main__":
    main()
