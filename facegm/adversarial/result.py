"""What an attack gives, and how far it went from the clean images."""

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from facegm.adversarial.subject import Images, PixelRange
from facegm.errors import FacegmError

ROUNDING = 1e-5
"""Of the width of the pixel range: how far beyond a bound counts as rounding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attacked:
    """A batch after an attack."""

    images: Images = field(repr=False)
    """Of the subject's pixel range; where the attack failed, what it ended with."""
    is_success: Bool[Tensor, " batch"]
    """Whether the attacker's goal is reached."""
    passes: Int64[Tensor, " batch"]
    """Forward passes that each image took, each with a backward pass where the attack asks for gradients."""


def distortion(clean: Images, attacked: Images, pixel_range: PixelRange) -> Float[Tensor, " batch"]:
    """||x - x'||_2 / sqrt(pixels and channels) on a scale of 0 to 255 (section 4.4.2 of Wan et al.)."""
    difference = (clean - attacked).flatten(1).double()
    return 255 / pixel_range.width * difference.square().mean(dim=1).sqrt()


def largest_change(clean: Images, attacked: Images, pixel_range: PixelRange) -> Float[Tensor, " batch"]:
    """L-infinity distance on a scale of 0 to 255."""
    return (clean - attacked).flatten(1).abs().amax(dim=1).double() * (255 / pixel_range.width)


def check_images(images: Images, pixel_range: PixelRange) -> None:
    """Refuse to attack images that are not of the declared pixel range.

    Raises:
        FacegmError: a pixel lies outside, or is no number.
    """
    slack = ROUNDING * pixel_range.width
    low, high = images.amin().item(), images.amax().item()
    if not (pixel_range.low - slack <= low and high <= pixel_range.high + slack):  # NaN too
        raise FacegmError(
            f"images: pixels from {low:g} to {high:g}, but the pixel range is {pixel_range.low:g} to "
            f"{pixel_range.high:g}; scale them, or declare the range that they have"
        )


def check_attacked(clean: Images, attacked: Images, pixel_range: PixelRange, *, epsilon: float | None = None) -> None:
    """Make sure that nothing has left the pixel range, or the ball of an attack.

    Args:
        clean: before the attack.
        attacked: after it.
        pixel_range: of both.
        epsilon: the most that a pixel may have changed; None where there is no such bound.

    Raises:
        FacegmError: something has, which is a fault of the attack.
    """
    check_images(attacked, pixel_range)
    if epsilon is not None:
        change = (attacked - clean).abs().amax().item()
        if not change <= epsilon + ROUNDING * pixel_range.width:
            raise FacegmError(f"attack: a pixel has changed by {change:g}, more than the bound of {epsilon:g}")
