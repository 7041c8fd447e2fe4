"""What a run trains: a network and a loss as one module, which says how it is fed, stepped, averaged and evaluated."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from facegm.data.draws import EvaluationSampler, load
from facegm.data.samples import Batch, DrawnSamples, Samples
from facegm.errors import FacegmError
from facegm.losses.collectives import rank, world_size
from facegm.losses.interface import Loss
from facegm.losses.shard import Shard
from facegm.schedule import Progress
from facegm.training.config import OptimizerConfig
from facegm.training.row_gradients import with_dense_gradient

Network = TypeVar("Network", bound=nn.Module)
"""Images to features."""


class Task(nn.Module, ABC, Generic[Network]):
    """A network trained with a loss; the loop knows no more of either than this.

    Args:
        network: from images to features.
        loss: on features and labels.
    """

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    @abstractmethod
    def inputs(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        """What the network is given of a batch, made on the device that the batch is on."""

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"], progress: Progress
    ) -> dict[str, Tensor]:
        """Loss of a batch; the network in the precision of the surrounding autocast, the loss in that of the images.

        Args:
            images: the network's input.
            labels: classes, 0 to classes - 1.
            progress: where the run stands, for what changes over its course.

        Returns:
            `loss`, the quantity to minimise, and beside it terms to log, without gradient: numbers, which are means
            over the batch, and vectors of which the distribution is of interest.
        """
        features = self.network(images)
        with torch.autocast(images.device.type, enabled=False):
            terms = self.loss(features.to(images.dtype), labels, progress)
        return {"loss": terms.total} | {name: t.detach() for name, t in terms._asdict().items() if name != "total"}

    def settings(self, progress: Progress) -> dict[str, float]:
        """What a step leaves to the host, such as the loss's margin at this point of the run; also to be logged."""
        return self.loss.settings(progress)

    @torch.no_grad()
    def evaluate(self, samples: Samples, *, batch_size: int, workers: int = 0) -> dict[str, float]:
        """Named numbers that say how good the task is, of all processes together, in the surrounding precision.

        All processes call it, and have the main one's running statistics, which are those that are exported.

        Args:
            samples: images with known classes, evaluated without augmentation.
            batch_size: images of a process at a time.
            workers: processes that decode, where images are kept nowhere.
        """
        if world_size() > 1:
            for name, buffer in self.named_buffers():
                if name not in self.sharded:
                    dist.broadcast(buffer, 0)
        sampler = EvaluationSampler(samples, batch_size, rank=rank(), world_size=world_size())
        with evaluating(self), closing(load(samples, sampler, workers=workers)) as batches:
            return self.judge(samples, zip(sampler, batches, strict=True))

    def judge(self, samples: Samples, batches: Iterable[tuple[DrawnSamples, Batch]]) -> dict[str, float]:
        """The numbers of `evaluate`, here those of classification.

        They are `accuracy`; `top5`, the share of samples whose class is among the five likeliest, where there are more;
        `loss`, the mean cross-entropy without margin.

        Args:
            samples: all that are evaluated.
            batches: those of this process, not yet on its device.

        Raises:
            FacegmError: the classes are split over the processes.
        """
        if self.sharded:
            raise FacegmError("the loss's shard_means: classes that are split over processes cannot be evaluated")
        device = self.device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        for _, batch in batches:
            images, labels = self.inputs(batch.to(device)), batch.labels.to(device)
            features = self.network.forward(images)  # not by calling it: it would be compiled anew for this
            with torch.autocast(device.type, enabled=False):
                logits = self.loss.logits(features.to(images.dtype))
                cross_entropy = nn.functional.cross_entropy(logits, labels, reduction="sum")
            is_own = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            sums += torch.stack([is_own[:, 0].sum(), is_own.sum(), cross_entropy]).to(sums)
        if world_size() > 1:
            dist.all_reduce(sums)
        accuracy, top5, loss = (sums / len(samples)).tolist()
        return {"accuracy": accuracy} | ({"top5": top5} if self.loss.classes > 5 else {}) | {"loss": loss}

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Kernels and matrices with decay; biases, slopes and scales as asked; what the loss learns as the loss says.

        Each group's `factor` multiplies the learning rate. What is frozen is in none.
        """
        parameters = list(self.network.parameters())
        bias_decay = config.weight_decay if config.decay_all else 0.0
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "factor": 1.0},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": bias_decay, "factor": 1.0},
            *self.loss.parameter_groups(config.weight_decay, bias_decay),
        ]
        return [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]

    def freeze(self, beginnings: Sequence[str]) -> None:
        """Leave parameters as they are whose names begin so, such as `network.trunk`.

        Raises:
            FacegmError: a beginning is that of no name, or nothing is left to train.
        """
        names = [name for name, _ in self.named_parameters()]
        for beginning in beginnings:
            if not any(name.startswith(beginning) for name in names):
                raise FacegmError(f"train.freeze: {beginning}: no such part; there are {', '.join(names[:8])}, ...")
        for name, parameter in self.named_parameters():
            if name.startswith(tuple(beginnings)):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise FacegmError("train.freeze: nothing is left to train")

    def clip_grad_norm_(self, max_norm: float) -> Float[Tensor, ""]:
        """Scale all gradients so that their L2 norm, over all parameters of all processes, is `max_norm` at most.

        Returns:
            The norm before.
        """
        parameters = {name: with_dense_gradient(parameter) for name, parameter in self.named_parameters()}
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        of_parts = [gradients.pop(name) for name in self.sharded if name in gradients]
        squared_norm = nn.utils.get_total_norm(gradients.values()).square().to(self.device)  # on the CPU if of none
        if self.sharded:
            parts = nn.utils.get_total_norm(of_parts).square().to(squared_norm)
            dist.all_reduce(parts)
            squared_norm = squared_norm + parts
        norm = squared_norm.sqrt()
        nn.utils.clip_grads_with_norm_(parameters.values(), max_norm, norm)
        return norm

    def coalesce_gradients(self) -> None:
        """Add up what several backward passes gave to one row of a sparse gradient; a GPU's host waits for it."""
        for parameter in self.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()

    @property
    def device(self) -> torch.device:
        """Where network and loss are."""
        return next(self.parameters()).device

    @property
    def sharded(self) -> dict[str, Shard]:
        """Names of the parameters of which this process holds a part, in rows, and which part."""
        return {f"loss.{name}": shard for name, shard in self.loss.sharded.items()}


def joined(terms_of_parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch's terms from those of its parts, which are of one size: the mean of numbers, vectors end to end."""
    if len(terms_of_parts) == 1:
        return terms_of_parts[0]
    values = {name: [terms[name] for terms in terms_of_parts] for name in terms_of_parts[0]}
    return {name: torch.cat(v) if v[0].ndim else torch.stack(v).mean() for name, v in values.items()}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while this context lasts; then each part is in its own again."""
    was_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in was_training.items():
            part.training = mode


class WeightAverage(Generic[Network]):
    """Exponential moving average of a task, network and class vectors, begun with the weights after the first step.

    torch's `AveragedModel` counts the steps in a tensor on the host, and a GPU's host waits for it in each.

    Args:
        task: what is trained.
        decay: share of the average that stays in a step.
    """

    def __init__(self, task: Task[Network], decay: float) -> None:
        self.task: Task[Network] = deepcopy(task).requires_grad_(False)
        self._move = get_ema_multi_avg_fn(decay)
        self._has_begun = False

    @torch.no_grad()
    def update(self, task: Task[Network]) -> None:
        """Take in the weights after a step."""
        if not self._has_begun:
            self.task.load_state_dict(task.state_dict())
            self._has_begun = True
            return
        self._move(list(self.task.parameters()), [parameter.detach() for parameter in task.parameters()], 0)
        for average, buffer in zip(self.task.buffers(), task.buffers(), strict=True):
            average.copy_(buffer)  # such as batch normalisation's running statistics, which are averages already

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"task": self.task.state_dict(), "has_begun": self._has_begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint was left."""
        self.task.load_state_dict(state["task"])
        self._has_begun = state["has_begun"]
