"""Steps replayed as a CUDA graph: when one is captured, what a replay sees, and, on a GPU, that it learns the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.models.face_network import FaceModelConfig
from facegm.schedule import Progress
from facegm.training.capture import EAGER_STEPS, CapturedStep
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.run_folder import read_metrics


class Recorder:
    """Stands in for CUDA: what is called while a graph is captured does nothing, and is done at each replay."""

    def __init__(self) -> None:
        self.is_capturing = False
        self.work: list[Any] = []
        self.captures = 0

    def CUDAGraph(self) -> "Recorder":  # noqa: N802 - torch's name
        return self

    def Stream(self) -> "Recorder":  # noqa: N802
        return self

    def current_stream(self) -> "Recorder":
        return self

    def wait_stream(self, _: object) -> None: ...

    @contextmanager
    def stream(self, _: object) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, _: object, **__: object) -> Iterator[None]:
        self.work, self.is_capturing = [], True
        yield
        self.is_capturing = False
        self.captures += 1

    def replay(self) -> None:
        for work in self.work:
            work()


def batch(value: int) -> Batch:
    return Batch(torch.full((2, 1, 1, 1), value, dtype=torch.uint8), torch.tensor([0, 1]))


def test_steps_are_captured_when_the_hosts_decisions_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects from a replay with the margin of another step, or with the images of another batch."""
    cuda = Recorder()
    monkeypatch.setattr(torch, "cuda", cuda)
    alpha = [0.1, 0.2, *[0.3] * 6, *[0.4] * 5]
    taken: list[tuple[float, float]] = []  # margin and pixels of each step that is really taken
    watched: list[float] = []

    def step(given: Batch, progress: Progress, watch: Any) -> dict[str, Tensor]:
        norm = torch.zeros(())
        margin = alpha[progress.step]

        def work() -> None:
            norm.copy_(given.images.sum())
            taken.append((margin, float(norm) / 2))

        if cuda.is_capturing:
            cuda.work.append(work)
        else:
            work()
        watch(norm)
        return {"gradient_norm": norm}

    take = CapturedStep(step, lambda progress: {"alpha": alpha[progress.step]})
    for number in range(len(alpha)):
        terms = take(batch(number), Progress(number, len(alpha)), lambda norm: watched.append(float(norm)))
        assert float(terms["gradient_norm"]) == 2 * number
    assert taken == [(margin, number) for number, margin in enumerate(alpha)]
    assert cuda.captures == 2
    # What is watched while capturing has no value yet; of each step the guard is told once.
    assert watched == [2 * number for number in range(len(alpha))]
    assert len(alpha) - 2 - 2 * EAGER_STEPS > 2, "some steps were replayed"


def config(store: Path, **train: Any) -> FaceRunConfig:
    return FaceRunConfig(
        data=FaceDataConfig(store=store, jitter=0.2),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=FaceModelConfig(width=0.1, embedding_dim=16),
        loss=LossConfig(gm=GMLossConfig(warmup_fraction=0.3, means_learning_rate_factor=2.0)),
        optimizer=OptimizerConfig(warmup_fraction=0.1, schedule="cosine"),
        train=TrainConfig(epochs=10, batch_size=24, precision="float32", log_every=1, ema_decay=0.9, **train),
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_is_refused(small_store: Path, tmp_path: Path) -> None:
    with pytest.raises(FacegmError, match=r"train\.capture: a step is captured on one GPU, in one process"):
        train_run(config(small_store, capture=True), tmp_path)


def test_a_step_that_draws_its_classes_is_refused(small_store: Path, tmp_path: Path) -> None:
    """Protects the drawing: by a replayed graph it would be the same in each step."""
    asked = config(small_store, capture=True)
    asked = replace(asked, loss=LossConfig(gm=GMLossConfig(negative_share=0.5)))
    with pytest.raises(
        FacegmError, match=r"train\.capture: .* the same classes in each step; with loss\.gm\.negative_sh"
    ):
        train_run(asked, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_captured_run_learns_the_same(small_store: Path, tmp_path: Path, name: str) -> None:
    """Protects learning rates, dropout's seeds and the average, all of which change while a graph is replayed."""
    found = {}
    for is_captured in (True, False):
        asked = config(small_store, capture=is_captured, accumulate=2)
        rate = 0.1 if name == "sgd" else 0.001
        asked = replace(
            asked,
            optimizer=replace(asked.optimizer, name=name, learning_rate=rate),  # type: ignore[arg-type]
            model=replace(asked.model, dropout=0.2),
        )
        folder = tmp_path / f"{is_captured}"
        train_run(asked, folder)
        found[is_captured] = [line["loss"] for line in read_metrics(folder)]
        state = load_newest_checkpoint(folder)
        assert state is not None
        assert all(tensor.isfinite().all() for tensor in state["average"]["task"].values())
    assert found[True] == pytest.approx(found[False], rel=1e-2)
    assert found[True][:5] == pytest.approx(found[False][:5], rel=1e-4)
