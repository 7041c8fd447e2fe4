"""Protects that the training loop knows nothing of faces: it learns digits, with all that goes with a run."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facegm.data.augment import cropped
from facegm.data.batch import Batch
from facegm.data.draws import DrawPlan, Draws
from facegm.data.samples import Samples
from facegm.losses.gm_module import GMLoss, GMLossConfig
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig
from facegm.training.distributed import Processes
from facegm.training.loop import train
from facegm.training.run_folder import read_metrics
from facegm.training.setup import TrainingSetup
from facegm.training.task import Task

SIDE, CROP, CLASSES = 28, 24, 10
TRAIN = TrainConfig(epochs=6, batch_size=50, ema_decay=0.9, precision="float32", checkpoint_every=25, log_every=10)


class Digits(Samples):
    """MNIST in memory: grey images of one channel."""

    def __init__(self, folder: Path, part: str, count: int) -> None:
        pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
        self.images = torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE, 1)[:count].copy())
        self.labels = np.frombuffer(labels, np.uint8)[:count].astype(np.int64)
        self.keys = [f"digit {number}" for number in range(count)]

    @property
    def decoded_size(self) -> int:
        return self.images.nbytes

    def keep_decoded(self, device: torch.device) -> None:
        self.images = self.images.to(device)

    def __getitem__(self, draws: Draws) -> Batch:
        return Batch.of(self.images[draws.sample], torch.from_numpy(self.labels[draws.sample]), draws)


class DigitTask(Task[nn.Sequential]):
    def inputs(self, batch: Batch) -> Tensor:
        return network_input(cropped(batch, CROP))


def network_input(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255 - 0.13


def setup(
    samples: Digits, held_out: Digits, run: Path, validated: list[int], dies_after: int | None
) -> TrainingSetup[nn.Sequential]:
    """Notes in `validated` each epoch after which it was; the machine may go down in the validation after one."""
    plan = DrawPlan(labels=samples.labels, batch_size=50, epochs=TRAIN.epochs, seed=0, slack=SIDE - CROP)
    torch.manual_seed(plan.seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 16)),
    )
    task = DigitTask(network, GMLoss(CLASSES, 16, GMLossConfig(alpha=0.1, likelihood_weight=0.1)))

    @torch.no_grad()
    def validate(network: nn.Sequential) -> dict[str, float]:
        if dies_after == len(validated):
            raise RuntimeError("the machine went down")
        validated.append(len(validated) + 1)
        network.eval()
        features = network.forward(network_input(held_out.images[:, 2:-2, 2:-2]))
        predicted = task.loss.logits(features).argmax(dim=1).numpy()
        network.train()
        return {"validation_accuracy": float((predicted == held_out.labels).mean())}

    def export(network: nn.Sequential) -> Path:
        torch.save(network.state_dict(), run / "digits.pt")
        return run / "digits.pt"

    return TrainingSetup(
        title="digits",
        task=task,
        samples=samples,
        plan=plan,
        residency="auto",
        workers=0,
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="cosine"),
        train=TRAIN,
        configuration="",
        must_match={"model": "digits"},
        export=export,
        validate=validate,
        validate_every=1,
        project=None,
    )


@pytest.mark.usefixtures("one_thread")
def test_digits_are_learnt_and_an_interrupted_run_ends_in_the_same_weights(shared_data: Path, tmp_path: Path) -> None:
    samples, held_out = Digits(shared_data / "mnist", "train", 2_000), Digits(shared_data / "mnist", "t10k", 1_000)

    def run(folder: Path, validated: list[int], *, dies_after: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
        train(setup(samples, held_out, folder, validated, dies_after), folder, alone)

    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    run(whole, [])
    assert read_metrics(whole)[-1]["validation_accuracy"] > 0.9
    validated: list[int] = []
    with pytest.raises(RuntimeError, match="the machine went down"):
        run(interrupted, validated, dies_after=2)
    run(interrupted, validated)
    assert validated == [1, 2, 3, 4, 5, 6]  # it has not begun anew

    weights, again = (torch.load(folder / "digits.pt", weights_only=True) for folder in (whole, interrupted))
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    state = load_newest_checkpoint(whole)
    assert state is not None
    for name, weight in weights.items():  # weights are averaged; running statistics, averages already, are the last
        assert torch.equal(weight, state["task"][f"network.{name}"]) == (".running_" in name or "num_batches" in name)
