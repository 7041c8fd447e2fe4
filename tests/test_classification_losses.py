"""Protects what theory says of the GM loss against a softmax classifier, on digits and the paper's network for them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from naive_networks import naive_lenet
from torch import Tensor
from torch.nn.functional import cross_entropy

from facegm.classification.classifier import Description, ImageClassifier
from facegm.classification.config import ImageDataConfig
from facegm.classification.data import open_images
from facegm.classification.preprocessing import ImagePreprocessing
from facegm.classification.task import ImageTask
from facegm.data.draws import DrawPlan, StepSampler
from facegm.data.readers.arrays import Part
from facegm.data.resident_images import PaddedCrop
from facegm.data.samples import Batch
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.models.image_network import ImageModelConfig
from facegm.schedule import Progress
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes
from facegm.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, BATCH, SHOWN = 10, 8, 8
TOLERANCE = 1e-4
"""Of logarithms of posteriors, in single precision: steps blow up what is rounded."""
RATE, MOMENTUM, DECAY = 0.02, 0.9, 0.001
MEAN, STD = 0.1307, 0.3081
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


class Softmax:
    """A linear classifier on LeNet++'s features, written out, with torch's own SGD on all that it learns.

    Args:
        network: initial weights, in their order.
        weight: initial class vectors W.
        is_tied: whether the bias is -||W_k||^2 / 2 at any time, a function of the class vectors, and not learned; else
            it begins so, and is learned.
    """

    def __init__(self, network: Sequence[Tensor], weight: Tensor, *, is_tied: bool) -> None:
        self._network = [tensor.detach().clone().requires_grad_() for tensor in network]
        self._weight = weight.detach().clone().requires_grad_()
        self._bias = None if is_tied else (-weight.detach().square().sum(1) / 2).requires_grad_()
        learned = [*self._network, self._weight, *([] if self._bias is None else [self._bias])]
        self._sgd = torch.optim.SGD(learned, lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)

    def scores(self, pixels: Tensor) -> Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        bias = -self._weight.square().sum(1) / 2 if self._bias is None else self._bias
        return naive_lenet(self._network, images) @ self._weight.T + bias

    @torch.no_grad()
    def log_posteriors(self, batch: Batch) -> Tensor:
        return self.scores(batch.images).log_softmax(1)

    def step(self, batch: Batch) -> None:
        self._sgd.zero_grad()
        cross_entropy(self.scores(batch.images), batch.labels).backward()
        self._sgd.step()


def digits(folder: Path, part: Part, count: int, batch_size: int) -> Iterator[Batch]:
    """The first of MNIST's in a random order, none of them twice."""
    samples = open_images(ImageDataConfig(set="mnist", folder=folder), part).samples
    plan = DrawPlan(labels=samples.labels[:count], batch_size=batch_size, epochs=1, seed=0)
    return (samples[drawn] for drawn in StepSampler(plan, samples))


@pytest.mark.parametrize("dim", [2, 100])
def test_without_margin_and_likelihood_it_is_a_softmax_classifier_with_tied_bias(dim: int, shared_data: Path) -> None:
    """Alpha = lambda = 0: W_k = mu_k and b_k = -||mu_k||^2 / 2, at the beginning and, by one gradient, ever after.

    The same predictions after each of 10 steps of the trainer, with decay of all weights. A bias that begins with the
    same values, but is learned, leaves them at once: to begin alike is not to be tied.
    """
    torch.manual_seed(0)
    gm = GMLossConfig(alpha=0.0, likelihood_weight=0.0, means_weight_decay=DECAY)
    description = Description(
        model=ImageModelConfig(name="lenet_plus_plus", feature_dim=dim),
        loss=LossConfig(name="gm", gm=gm),
        preprocessing=ImagePreprocessing(mean=[MEAN], std=[STD]),
        classes=tuple("0123456789"),
        channels=1,
        side=28,
    )
    classifier = ImageClassifier(description)
    weights, means = list(classifier.network.parameters()), classifier.state_dict()["loss.means"]
    tied, free = (Softmax(weights, means, is_tied=is_tied) for is_tied in (True, False))
    optimizer = OptimizerConfig(
        learning_rate=RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=DECAY,
        decay_all=True,
        milestones=[],
        clip_gradient=math.inf,
    )
    crop = PaddedCrop(side=28, padding=0, mirror=False)
    trainer = Trainer(ImageTask(classifier, crop), optimizer, TrainConfig(precision="float32", compile=False), ALONE)
    (shown,) = digits(shared_data / "mnist", "test", SHOWN, SHOWN)

    @torch.no_grad()
    def predicted() -> Tensor:
        found: Tensor = classifier(shown.images.permute(0, 3, 1, 2).float() / 255).log_softmax(1)
        return found

    at_first = predicted()
    torch.testing.assert_close(at_first, tied.log_posteriors(shown), rtol=0, atol=TOLERANCE)
    for step, batch in enumerate(digits(shared_data / "mnist", "train", STEPS * BATCH, BATCH)):
        trainer.step(batch, Progress(step, STEPS), lambda _: None)
        tied.step(batch)
        torch.testing.assert_close(predicted(), tied.log_posteriors(shown), rtol=0, atol=TOLERANCE)
        if step < 3:
            free.step(batch)
            assert (predicted() - free.log_posteriors(shown)).abs().max() > 1e-4
    assert step == STEPS - 1
    assert (predicted() - at_first).abs().max() > 0.01, "nothing was learned"
