"""Networks whose layers have left their start, so that what folds or forgets one of them is noticed."""

from torch import nn


def move_batch_normalisation(network: nn.Module) -> None:
    """Give statistics and scales of batch normalisation random values, as a training would."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for numbers, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 2),
            ):
                assert numbers is not None
                nn.init.uniform_(numbers, low, high)
