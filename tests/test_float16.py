"""Training in float16 where the first steps are passed over, because the loss's scale makes their gradient infinite.

On a GPU the optimiser is a fused one, which creates its momentum in memory that nothing was written to; here torch's
fused ones on a CPU stand for it, and such memory is filled with NaN.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, prelu

from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.losses.config import LossConfig
from facegm.losses.softmax import SoftmaxLoss
from facegm.models.face_network import FaceModelConfig
from facegm.schedule import Progress
from facegm.training import optimizer
from facegm.training.checkpoint import checkpoints, load_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes
from facegm.training.loop import Trainer
from facegm.training.row_gradients import LazyAdamW, LazySGD
from facegm.training.run_folder import read_metrics
from facegm.training.task import Task

STEPS = 12


class FusedSGD(LazySGD):
    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings | {"fused": True})


class FusedAdamW(LazyAdamW):
    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings | {"fused": True})


class NotedScaler(torch.amp.GradScaler):
    """Notes of each step whether it was passed over."""

    passed_over: list[bool]

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        before = self.get_scale()
        super().update(new_scale)
        self.passed_over.append(self.get_scale() < before)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Uninitialised tensors hold NaN."""
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on with it
    assert torch.empty_like(torch.ones(4)).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def passed_over(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each step to come, whether the scaler passed over it; optimisers are fused."""
    NotedScaler.passed_over = []
    monkeypatch.setattr(torch.amp, "GradScaler", NotedScaler)
    monkeypatch.setattr(optimizer, "LazySGD", FusedSGD)
    monkeypatch.setattr(optimizer, "LazyAdamW", FusedAdamW)
    return NotedScaler.passed_over


def config(store: Path, optimizer_config: OptimizerConfig) -> FaceRunConfig:
    """ArcFace multiplies cosines by 64, and so the gradient."""
    return FaceRunConfig(
        data=FaceDataConfig(store=store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16),
        loss=LossConfig(name="arcface"),
        optimizer=optimizer_config,
        train=TrainConfig(epochs=STEPS // 6, batch_size=8, precision="float16", log_every=1),
    )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "optimizer_config",
    [
        OptimizerConfig(learning_rate=0.01),
        OptimizerConfig(learning_rate=0.01, nesterov=True, clip_gradient=float("inf")),
        OptimizerConfig(name="adamw", learning_rate=0.001),
    ],
    ids=["sgd", "nesterov", "adamw"],
)
def test_weights_stay_finite_where_the_first_steps_are_passed_over(
    small_store: Path, tmp_path: Path, passed_over: list[bool], optimizer_config: OptimizerConfig
) -> None:
    train_run(config(small_store, optimizer_config), tmp_path / "run")
    assert len(passed_over) == STEPS
    assert passed_over[0]
    assert not all(passed_over)
    state = load_checkpoint(checkpoints(tmp_path / "run")[-1])
    assert all(tensor.isfinite().all() for tensor in state["task"].values())
    assert all(line["loss"] < 100 for line in read_metrics(tmp_path / "run"))


class LinearTask(Task[nn.Sequential]):
    def inputs(self, batch: Batch) -> Tensor:
        return batch.images.flatten(1).float() / 255


@pytest.mark.usefixtures("passed_over")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("limit", [0.1, float("inf")])
def test_a_scaled_step_is_that_of_the_unscaled_gradient(accumulate: int, limit: float) -> None:
    """Its norm is logged and clipped without the scale; against the gradient in double precision."""
    torch.manual_seed(0)
    task = LinearTask(nn.Sequential(nn.Linear(12, 6), nn.PReLU()), SoftmaxLoss(5, 6))
    batch = Batch(torch.randint(256, (9, 2, 2, 3), dtype=torch.uint8), torch.arange(9) % 5)
    w = {name: tensor.detach().double().requires_grad_() for name, tensor in task.named_parameters()}
    features = linear(batch.images.flatten(1).double() / 255, w["network.0.weight"], w["network.0.bias"])
    scores = linear(prelu(features, w["network.1.weight"]), w["loss.weight"], w["loss.bias"])
    cross_entropy(scores, batch.labels).backward()
    expected = torch.cat([tensor.grad.flatten() for tensor in w.values() if tensor.grad is not None])
    config = OptimizerConfig(learning_rate=0.125, weight_decay=0.0, clip_gradient=limit)
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    trainer = Trainer(task, config, TrainConfig(precision="float16", accumulate=accumulate), alone)
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 256.0})
    seen: list[float] = []
    terms = trainer.step(batch, Progress(0, 2), lambda norm: seen.append(norm.item()))
    change = torch.cat([(parameter - w[name]).flatten() for name, parameter in task.named_parameters()]).detach()
    assert seen == [terms["gradient_norm"].item()] == [pytest.approx(expected.norm().item(), rel=0.01)]
    assert expected.norm() > 0.2
    expected = expected * min(1, limit / expected.norm().item())
    assert (change / -0.125 - expected).norm() < 0.01 * expected.norm()
