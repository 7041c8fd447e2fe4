"""What only a CUDA device can show; run by `make test-gpu`."""

from pathlib import Path

import pytest
import torch

from facegm.data.preprocessing import Preprocessing
from facegm.losses.gm import gm_loss
from facegm.models.face_resnet import FaceResNetConfig
from facegm.training.config import DataConfig, RunConfig, TrainConfig
from facegm.training.run import train_run
from facegm.training.run_folder import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_forward_products_keep_float32_where_tf32_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(64, 512, generator=generator, dtype=torch.float64) + 3
    mu = 0.1 * torch.randn(10_575, 512, generator=generator, dtype=torch.float64) + 3
    labels = torch.randint(10_575, (64,), generator=generator)
    exact = gm_loss(x, mu, labels, alpha=0.01, likelihood_weight=0.001).total.item()
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    on_device = (x.float().cuda(), mu.float().cuda(), labels.cuda())
    with torch.autocast("cuda", torch.bfloat16):
        single = gm_loss(*on_device, alpha=0.01, likelihood_weight=0.001).total.item()
    assert single == pytest.approx(exact, rel=1e-5)


def test_a_run_on_the_device_learns(small_store: Path, tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig(store=small_store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceResNetConfig(width=0.25, embedding_dim=32),
        train=TrainConfig(epochs=20, batch_size=24, log_every=1),
    )
    train_run(config, tmp_path / "run", is_new=True)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "embedder.safetensors").is_file()
