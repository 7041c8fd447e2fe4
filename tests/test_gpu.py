"""What only a CUDA device can show; run by `make test-gpu`."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facegm.data.draws import StepSampler
from facegm.data.preprocessing import Preprocessing
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import draw_plan, train_run
from facegm.faces.samples import LabelledFaces
from facegm.faces.task import FaceTask
from facegm.losses.engine import Implementation
from facegm.losses.gm import gm_loss
from facegm.losses.softmax import softmax_loss
from facegm.models.face_network import FaceModelConfig
from facegm.schedule import Progress
from facegm.store.reader import FaceStore
from facegm.training.checkpoint import checkpoints, load_newest_checkpoint
from facegm.training.config import TrainConfig
from facegm.training.distributed import Processes
from facegm.training.finite import FiniteGuard
from facegm.training.log import RunningMeans
from facegm.training.loop import Trainer
from facegm.training.run_folder import read_metrics

pytestmark = pytest.mark.gpu


def random_case(batch: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(batch, 512, generator=generator, dtype=torch.float64) + 3
    mu = 0.1 * torch.randn(classes, 512, generator=generator, dtype=torch.float64) + 3
    return x, mu, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("implementation", ["dense", "chunked", "fused"])
def test_loss_and_gradients_keep_float32_where_tf32_is_allowed(
    implementation: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, mu, labels = random_case(200, 10_575)
    x, mu = x.requires_grad_(), mu.requires_grad_()
    exact = gm_loss(x, mu, labels, alpha=0.01, likelihood_weight=0.001).total
    exact.backward()
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    x_single, mu_single = (tensor.detach().float().cuda().requires_grad_() for tensor in (x, mu))
    with torch.autocast("cuda", torch.bfloat16):
        single = gm_loss(
            x_single,
            mu_single,
            labels.cuda(),
            alpha=0.01,
            likelihood_weight=0.001,
            implementation=implementation,
        ).total
    single.backward()
    assert single.item() == pytest.approx(exact.item(), rel=1e-5)
    for found, expected in ((x_single.grad, x.grad), (mu_single.grad, mu.grad)):
        assert found is not None
        assert expected is not None
        assert ((found.cpu().double() - expected).norm() / expected.norm()).item() < 1e-5


def test_linear_losses_keep_float32_where_tf32_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, labels = random_case(200, 1_000)
    b = torch.zeros(1_000, dtype=torch.float64)
    x.requires_grad_()
    softmax_loss(x, w, b, labels).total.backward()
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    x_single = x.detach().float().cuda().requires_grad_()
    softmax_loss(x_single, w.float().cuda(), b.float().cuda(), labels.cuda()).total.backward()
    assert x.grad is not None
    assert x_single.grad is not None
    # Features and classes far from 0 cost float32 three digits: 3e-5 on a CPU. With TF32 it would be 6e-3.
    assert ((x_single.grad.cpu().double() - x.grad).norm() / x.grad.norm()).item() < 1e-4


def test_fused_takes_little_memory_and_always_gives_the_same() -> None:
    x, mu, labels = (tensor.cuda() for tensor in random_case(4_096, 10_575))
    x, mu = (tensor.float().requires_grad_() for tensor in (x, mu))
    gradients = []
    torch.ones(2, 2, device="cuda") @ torch.ones(2, device="cuda")  # cuBLAS keeps a workspace of 32 MiB from now on
    for _ in range(3):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        terms = gm_loss(x, mu, labels, alpha=0.01, likelihood_weight=0.001, implementation="fused")
        gradients.append(torch.autograd.grad(terms.total, (x, mu)))
        scratch = torch.cuda.max_memory_allocated() - before - 4 * 512 * (4_096 + 10_575)
        assert scratch < 2**27, "as said of the engine, with the features relative to the origin"
    assert all(torch.equal(a, b) for again in gradients[1:] for a, b in zip(gradients[0], again, strict=True))


def test_a_run_on_the_device_learns(small_store: Path, tmp_path: Path) -> None:
    config = FaceRunConfig(
        data=FaceDataConfig(store=small_store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.25, embedding_dim=32),
        train=TrainConfig(epochs=20, batch_size=24, log_every=1),
    )
    train_run(config, tmp_path / "run")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "embedder.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_steps_without_a_log_the_host_never_waits(small_store: Path, tmp_path: Path, precision: str) -> None:
    """Protects the overlap of host and device: torch raises where an operation would wait."""
    device = torch.device("cuda")
    config = FaceRunConfig(
        data=FaceDataConfig(store=small_store, jitter=0.2),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16, dropout=0.2),
        train=TrainConfig(epochs=5, batch_size=24, accumulate=2, ema_decay=0.9, precision=precision),  # type: ignore[arg-type]
    )
    faces = LabelledFaces(FaceStore(small_store), config.preprocessing, jitter=config.data.jitter)
    faces.keep_decoded(device)
    plan = draw_plan(config, faces)
    task = FaceTask(config.model, config.loss, config.preprocessing, len(faces.identities)).to(device)
    trainer = Trainer(task, config.optimizer, config.train, Processes(rank=0, world_size=1, device=device))
    guard, means = FiniteGuard(tmp_path, plan, faces.keys, is_main=True), RunningMeans()
    try:
        for step, drawn in enumerate(StepSampler(plan, faces), start=1):
            batch = faces[drawn].to(device)
            means.add(trainer.step(batch, Progress(step - 1, plan.steps), partial(guard.watch, step)))
            if step == 3:
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_checkpoint_of_a_cpu_goes_on_scaled_on_the_device(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects from a CPU's settings of the optimiser, with which float16's scaler would have to wait for the host."""
    train = TrainConfig(epochs=10, batch_size=24, checkpoint_every=10, precision="float16")
    config = FaceRunConfig(
        data=FaceDataConfig(store=small_store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16),
        train=train,
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        train_run(config, tmp_path)
    checkpoints(tmp_path)[-1].unlink()
    train_run(config, tmp_path)
    assert checkpoints(tmp_path)[-1].name == "step-00000020.pt"
    state = load_newest_checkpoint(tmp_path)
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state["task"].values())


def test_the_log_says_how_much_of_the_device_is_used(small_store: Path, tmp_path: Path) -> None:
    config = FaceRunConfig(
        data=FaceDataConfig(store=small_store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.25, embedding_dim=32),
        train=TrainConfig(epochs=2, batch_size=24, log_every=2),
    )
    train_run(config, tmp_path)
    line = read_metrics(tmp_path)[-1]
    assert 0 < line["peak_memory_gb"] < 10
    assert 0 < line.get("share_of_peak", 0.5) < 1
