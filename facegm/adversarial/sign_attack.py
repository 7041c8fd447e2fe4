"""Attacks within an L-infinity ball, by the gradient's sign: FGSM, BIM, ILCM and PGD are this loop."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from facegm.adversarial.chance import Generators, uniform
from facegm.adversarial.objectives import Judgement, Objective
from facegm.adversarial.result import Attacked
from facegm.adversarial.subject import Images, PixelRange


def sign_attack(
    objective: Objective,
    images: Images,
    pixel_range: PixelRange,
    *,
    epsilon: float,
    step: float,
    iterations: int,
    restarts: int = 0,
    generators: Generators | None = None,
    stops: bool = False,
) -> Attacked:
    """Go `iterations` steps against the sign of the loss's gradient, within `epsilon` of the clean images.

    One iteration with step = epsilon is FGSM (Goodfellow et al. 2015), several are BIM, and with the least likely class
    as target ILCM (Kurakin et al. 2017); from random points in the ball it is PGD (Madry et al. 2018).

    Args:
        objective: what is wanted of each image.
        images: clean ones, of the pixel range.
        pixel_range: what no pixel leaves.
        epsilon: the most that a pixel changes.
        step: what it changes by in an iteration.
        iterations: steps of a try.
        restarts: tries from random points in the ball, of which each goes on with the images that have not reached the
            goal; 0 for one try from the clean images.
        generators: draw the random points of each image; needed with restarts.
        stops: whether an image stays as it is as soon as it reaches the goal, and costs no more; else each takes all
            steps of a try.
    """
    low, high = pixel_range.ball(images, epsilon)
    attacked, rows = images.detach().clone(), torch.arange(len(images), device=images.device)
    is_success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    passes = torch.zeros_like(rows)
    for _ in range(max(1, restarts)):
        rows = rows[~is_success[rows]]
        if not len(rows):
            break
        start = images[rows]
        if restarts:
            assert generators is not None
            noise = uniform([generators[row] for row in rows.tolist()], start.shape[1:]).to(start)
            start = (start + (2 * noise - 1) * epsilon).clamp(low[rows], high[rows])
        attacked[rows], is_success[rows], taken = _descend(
            objective, start, rows, low[rows], high[rows], step=step, iterations=iterations, stops=stops
        )
        passes[rows] += taken
    return Attacked(images=attacked, is_success=is_success, passes=passes)


def _descend(
    objective: Objective,
    images: Images,
    rows: Int64[Tensor, " batch"],
    low: Images,
    high: Images,
    *,
    step: float,
    iterations: int,
    stops: bool,
) -> tuple[Images, Bool[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """One try: images, whether they reach the goal, and passes taken."""
    images = images.detach().clone()
    passes = torch.zeros_like(rows)
    active = torch.arange(len(rows), device=rows.device)
    for _ in range(iterations):
        gradient, judgement = gradient_of(objective, images[active], rows[active])
        passes[active] += 1
        if stops:
            goes_on = ~judgement.is_reached
            active, gradient = active[goes_on], gradient[goes_on]
            if not len(active):
                break
        moved = images[active] - step * gradient.sign()
        images[active] = torch.minimum(torch.maximum(moved, low[active]), high[active])
    with torch.no_grad():
        is_success = objective(images, rows).is_reached
    return images, is_success, passes


def gradient_of(objective: Objective, images: Images, rows: Int64[Tensor, " batch"]) -> tuple[Images, Judgement]:
    """The gradient of each image's loss, and the judgement, which keeps no graph."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        judgement = objective(images, rows)
        (gradient,) = torch.autograd.grad(judgement.loss.sum(), images)
    return gradient, Judgement(judgement.loss.detach(), judgement.is_reached)
