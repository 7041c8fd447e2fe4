"""The moving average of a network's weights over the steps of a run."""

from copy import deepcopy
from typing import Any, Generic

from torch.optim.swa_utils import get_ema_multi_avg_fn

from facegm.training.task import Network


class WeightAverage(Generic[Network]):
    """Exponential moving average, begun with the weights after the first step.

    torch's `AveragedModel` counts the steps in a tensor on the host, and a GPU's host waits for it in each.

    Args:
        network: what is trained.
        decay: share of the average that stays in a step.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network: Network = deepcopy(network).requires_grad_(False)
        self._move = get_ema_multi_avg_fn(decay)
        self._steps = 0

    def update(self, network: Network) -> None:
        """Take in the weights after a step."""
        if self._steps == 0:
            self.network.load_state_dict(network.state_dict())
        else:
            weights = [parameter.detach() for parameter in network.parameters()]
            self._move(list(self.network.parameters()), weights, self._steps)
            for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
                average.copy_(buffer)  # such as batch normalisation's running statistics, which are averages already
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint was left."""
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]
