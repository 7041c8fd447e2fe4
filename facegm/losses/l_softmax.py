"""The L-Softmax loss of Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks" (ICML 2016)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.losses.interface import LossTerms, accuracy_of
from facegm.losses.linear import ClassVectorLoss, linear_scores
from facegm.losses.precision import precision_of
from facegm.schedule import Progress, power_decay


@dataclass(frozen=True, kw_only=True)
class LSoftmaxConfig:
    """The L-Softmax loss. The weight of the plain cosine falls as max(minimum, base (1 + gamma step)^-power)."""

    margin: int = 2
    """Factor m on the angle to the true class: 2, 3 or 4. The authors take 4 for MNIST, 2 for CIFAR-10."""
    base: float = 1000.0
    """Weight of the plain cosine at the first step."""
    gamma: float = 0.00001
    """Speed at which that weight falls; the authors take 2.5e-5 for MNIST."""
    power: float = 45.0
    """Exponent of the fall; the authors take 35 for MNIST."""
    minimum: float = 0.0
    """Weight that always remains; 5 to 10 for sets on which the loss would not converge."""

    def __post_init__(self) -> None:
        if self.margin not in (2, 3, 4):
            raise ValueError(f"margin: {self.margin}, must be 2, 3 or 4")
        for name in ("base", "gamma", "power", "minimum"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, must be a number from 0 on")

    def cosine_weight(self, progress: Progress | None) -> float:
        """Weight of the plain cosine at a point of the run; None is the end, where the minimum remains."""
        if progress is None:
            return self.minimum
        return power_decay(progress.step, start=self.base, gamma=self.gamma, power=self.power, minimum=self.minimum)


def l_softmax_loss(
    features: Float[Tensor, "batch dim"],
    weight: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    *,
    margin: int,
    cosine_weight: float,
) -> LossTerms:
    """Mean cross-entropy of the scores x_i . w_k, where the true class's cosine gives way to a steeper function.

    That is (cosine_weight * cos(theta) + psi(theta)) / (cosine_weight + 1), with psi(theta) = (-1)^j cos(m theta) - 2j
    for theta from j pi / m to (j + 1) pi / m (Eq. 6 of Liu et al.).
    """
    own = labels[:, None]
    scores = linear_scores(features, weight)
    precision = precision_of(features, weight)
    length = (features.to(precision).norm(dim=1) * weight.to(precision)[labels].norm(dim=1))[:, None]
    cosine = (scores.gather(1, own) / (length + 1e-9)).clamp(-1, 1)
    steeper = (cosine_weight * cosine + _psi(cosine, margin)) / (cosine_weight + 1)
    loss = cross_entropy(scores.scatter(1, own, length * steeper), labels)
    return LossTerms(loss, accuracy_of(scores, labels))


def _psi(cosine: Tensor, margin: int) -> Tensor:
    """psi(theta) from cos(theta) alone: cos(m theta) is a Chebyshev polynomial of it, and no arc cosine is taken."""
    bounds = torch.tensor([math.cos(j * math.pi / margin) for j in range(1, margin)]).to(cosine)
    branch = (cosine.detach() < bounds).sum(dim=1, keepdim=True)
    square = cosine.square()
    polynomial = {2: 2 * square - 1, 3: (4 * square - 3) * cosine, 4: 8 * square * (square - 1) + 1}[margin]
    return torch.where(branch % 2 == 0, polynomial, -polynomial) - 2 * branch


class LSoftmaxLoss(ClassVectorLoss):
    """Class vectors without bias, and `l_softmax_loss` with them."""

    def __init__(self, classes: int, dim: int, config: LSoftmaxConfig = LSoftmaxConfig()) -> None:
        super().__init__(classes, dim)
        self._config = config

    def forward(
        self, features: Float[Tensor, "batch dim"], labels: Int64[Tensor, " batch"], progress: Progress | None = None
    ) -> LossTerms:
        """Compute `l_softmax_loss` of the features."""
        c = self._config
        weight = c.cosine_weight(progress)
        return l_softmax_loss(features, self.weight, labels, margin=c.margin, cosine_weight=weight)

    def settings(self, progress: Progress) -> dict[str, float]:
        """Weight of the plain cosine."""
        return {"cosine_weight": self._config.cosine_weight(progress)}
