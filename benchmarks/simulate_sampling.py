"""How far the classification term lies below its value where negatives are drawn; some seconds.

10,000 class vectors and 64 samples are drawn at random in 64 dimensions, the samples around their own class's vector:
near it (noise 0.3), or so widely that other classes come near (noise 1). The term over all classes stands beside the
mean over 200 draws of some.
"""

import math
from collections.abc import Callable

import torch
from interleaved import write_results
from torch import Tensor

from facegm.losses.angular import arcface_loss
from facegm.losses.gm import gm_loss
from facegm.losses.negatives import Negatives, draw_negatives
from facegm.losses.shard import Shard
from facegm.losses.softmax import softmax_loss

CLASSES, BATCH, DIM, DRAWS = 10_000, 64, 64, 200
LENGTH = 0.7
"""Standard deviation of the vectors' coordinates: two means are 8 apart."""

Term = Callable[[Tensor, Tensor, Tensor, Negatives | None], Tensor]
TERMS: dict[str, Term] = {
    "gm": lambda x, v, y, drawn: gm_loss(x, v, y, alpha=0.01, likelihood_weight=0.001, negatives=drawn).classification,
    "softmax": lambda x, v, y, drawn: softmax_loss(x, v, v.new_zeros(len(v)), y, negatives=drawn).total,
    "arcface, scale 16": lambda x, v, y, drawn: arcface_loss(x, v, y, scale=16.0, margin=0.2, negatives=drawn).total,
    "arcface, scale 64": lambda x, v, y, drawn: arcface_loss(x, v, y, scale=64.0, margin=0.5, negatives=drawn).total,
}


def bias(term: Term, noise: float, share: float) -> dict[str, object]:
    """The exact term, and how much more the mean over the draws is, with its standard error."""
    generator = torch.Generator().manual_seed(0)
    vectors = LENGTH * torch.randn(CLASSES, DIM, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    x = vectors[labels] + noise * torch.randn(BATCH, DIM, generator=generator)
    draws = (draw_negatives(labels, Shard.whole(CLASSES), share, generator) for _ in range(DRAWS))
    found = torch.stack([term(x, vectors, labels, drawn) for drawn in draws])
    exact = term(x, vectors, labels, None)
    error = found.std() / math.sqrt(DRAWS)
    numbers = {"exact": exact, "bias": found.mean() - exact, "standard_error": error}
    return {name: round(value.item(), 4) for name, value in numbers.items()}


def main() -> None:
    write_results(
        "sampling_bias",
        [
            {"loss": name, "noise": noise, "negative_share": share} | bias(term, noise, share)
            for name, term in TERMS.items()
            for noise in (0.3, 0.6, 1.0)
            for share in (0.3, 0.1, 0.03)
        ],
    )


if __name__ == "__main__":
    main()
