"""IResNet and MobileFaceNet against their published tables, counted and computed by hand; all networks by their names.

The hand-written forward passes read the state dict and know no module of the package.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, get_args

import numpy as np
import pytest
import torch
from plain_embeddings import embed_faces
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from facegm import FaceEmbedder
from facegm.align.face import TEMPLATE
from facegm.data.preprocessing import Preprocessing
from facegm.data.samples import Batch
from facegm.embedding.model_file import load_embedder, save_embedder
from facegm.errors import FacegmError
from facegm.faces.config import FaceDataConfig, FaceRunConfig
from facegm.faces.run import train_run
from facegm.faces.task import FaceTask
from facegm.losses.config import LossConfig
from facegm.models.face_base import FaceNetwork
from facegm.models.face_network import FaceModelConfig, FaceModelName, build_face_network
from facegm.schedule import Progress
from facegm.training.checkpoint import load_newest_checkpoint
from facegm.training.config import OptimizerConfig, TrainConfig, to_yaml
from facegm.training.distributed import Processes
from facegm.training.loop import Trainer

Torchrun = Callable[[int, Sequence[str], Path], CompletedProcess[str]]
NAMES: tuple[FaceModelName, ...] = get_args(FaceModelName)
WITH_NORM = [name for name in NAMES if name != "resnet27"]
UNITS = {"iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3)}
BOTTLENECKS = [(2, 64, 2), *[(2, 64, 1)] * 4, (4, 128, 2), *[(2, 128, 1)] * 6, (4, 128, 2), *[(2, 128, 1)] * 2]
"""Expansion, channels and stride of each one."""


def tiny(name: FaceModelName, **fields: float) -> FaceModelConfig:
    return FaceModelConfig(name=name, width=0.1, embedding_dim=16, **fields)


def published(name: FaceModelName, size: int, dim: int) -> FaceNetwork:
    with torch.device("meta"):
        return build_face_network(FaceModelConfig(name=name, embedding_dim=dim), size).eval()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------- published tables


def iresnet_count(units: Sequence[int], side: int) -> int:
    """Convolutions have no bias; batch normalisation counts 2 a channel, PReLU 1."""
    total, incoming = 9 * 3 * 64 + 2 * 64 + 64, 64
    for channels, count in zip((64, 128, 256, 512), units, strict=True):
        for number in range(count):
            total += 2 * incoming + 9 * incoming * channels + 3 * channels + 9 * channels * channels + 2 * channels
            if number == 0:
                total += incoming * channels + 2 * channels
            incoming = channels
    return total + 2 * 512 + 512 * side * side * 512 + 512


@pytest.mark.parametrize(("name", "millions"), [("iresnet50", 43.59), ("iresnet100", 65.15)])
def test_iresnet_has_the_published_parameters_but_for_the_last_normalisation(
    name: FaceModelName, millions: float
) -> None:
    counted = iresnet_count(UNITS[name], side=7)
    assert parameters(published(name, 112, 512)) == counted
    assert (counted + 2 * 512) / 1e6 == pytest.approx(millions, abs=0.0065)


def test_mobilefacenet_has_the_published_parameters() -> None:
    channels = [64, 64]  # of all that are normalised
    slopes = 64 + 64
    weights = 9 * 3 * 64 + 9 * 64
    incoming = 64
    for expansion, outgoing, _ in BOTTLENECKS:
        inner = expansion * incoming
        weights += incoming * inner + 9 * inner + inner * outgoing
        channels += [inner, inner, outgoing]
        slopes += 2 * inner
        incoming = outgoing
    weights += 128 * 512 + 49 * 512 + 512 * 128
    channels += [512, 512]
    slopes += 512
    counted = weights + 2 * sum(channels) + slopes + 128
    assert parameters(published("mobilefacenet", 112, 128)) == counted == 1_003_008
    folded = counted - sum(channels)  # scale and shift of each channel become one bias
    assert round(folded / 1e6, 2) == 0.99


@pytest.mark.parametrize(
    ("name", "dim", "millions"), [("iresnet50", 512, 6_310), ("iresnet100", 512, 12_100), ("mobilefacenet", 128, 221)]
)
def test_multiplications_are_as_published(name: FaceModelName, dim: int, millions: float) -> None:
    """Protects the places of the strides, which no parameter shows: 221 M in MobileFaceNet's paper."""
    network = published(name, 112, dim)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 112, 112, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, rel=0.002)


# ------------------------------------------------------------------------------------------------- forward by hand


def norm(x: Tensor, state: dict[str, Tensor], at: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{at}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def prelu(x: Tensor, state: dict[str, Tensor], at: str) -> Tensor:
    return torch.where(x > 0, x, state[f"{at}.weight"][:, None, None] * x)


def block(x: Tensor, state: dict[str, Tensor], at: str, stride: int = 1, *, linear: bool = False) -> Tensor:
    """Convolution, normalisation and PReLU; depthwise where the weights have one channel."""
    weight = state[f"{at}.0.weight"]
    groups = len(weight) if weight.shape[1] == 1 and x.shape[1] > 1 else 1
    x = norm(conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups), state, f"{at}.1")
    return x if linear else prelu(x, state, f"{at}.2")


def iresnet(x: Tensor, state: dict[str, Tensor], units: Sequence[int]) -> Tensor:
    x, number = block(x, state, "trunk.0"), 0
    for count in units:
        for place in range(count):
            number += 1
            stride, at = 2 if place == 0 else 1, f"trunk.{number}"
            y = block(norm(x, state, f"{at}.body.0"), state, f"{at}.body.1")
            y = block(y, state, f"{at}.body.2", stride, linear=True)
            x = y + (block(x, state, f"{at}.shortcut", stride, linear=True) if place == 0 else x)
    return norm(x, state, f"trunk.{number + 1}").flatten(1)


def mobilefacenet(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = block(block(x, state, "trunk.0", 2), state, "trunk.1")
    for number, (_, _, stride) in enumerate(BOTTLENECKS, start=2):
        at = f"trunk.{number}.body"
        y = block(block(block(x, state, f"{at}.0"), state, f"{at}.1", stride), state, f"{at}.2", linear=True)
        x = y + x if y.shape == x.shape else y
    x = block(x, state, "trunk.17")
    x = (x * state["trunk.18.weight"][:, 0]).sum(dim=(2, 3), keepdim=True)
    return norm(x, state, "trunk.19").flatten(1)


@pytest.mark.parametrize("size", [37, 48])
@pytest.mark.parametrize("name", WITH_NORM)
def test_embeddings_are_those_of_a_computation_by_hand(name: FaceModelName, size: int) -> None:
    """At a side that is odd after each halving, and one that is even; in float64, with any weights and statistics."""
    generator = torch.Generator().manual_seed(0)
    network = build_face_network(tiny(name, dropout=0.3), size).double().eval()
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 1:  # scales, shifts, slopes and statistics, which are positive where they have to be
            tensor.copy_(
                torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + (0.5 if "var" in key else 0)
            )
    images = torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
    state = network.state_dict()
    features = mobilefacenet(images, state) if name == "mobilefacenet" else iresnet(images, state, UNITS[name])
    expected = features @ state["embedding.weight"].T + state["embedding.bias"]
    assert expected.std() > 0.01
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_stands_in_front_of_the_last_layer(name: FaceModelName) -> None:
    network = build_face_network(tiny(name, dropout=0.5), 48)
    seen: list[Tensor] = []
    network.embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.randn(8, 3, 48, 48)
    network(images)
    network.eval()(images)
    dropped, whole = ((values == 0).float().mean().item() for values in seen)
    assert whole < 0.01
    assert dropped == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", WITH_NORM)
def test_embeddings_begin_as_short_as_the_means(name: FaceModelName) -> None:
    """Means of length 0.8 far from features of length 20 are what the last normalisation would make."""
    torch.manual_seed(0)
    faces = nn.functional.interpolate(torch.rand(16, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1) * 2 - 1
    task = FaceTask(
        FaceModelConfig(name=name, width=0.25), LossConfig(), Preprocessing(face_size=64, crop_size=64), 291
    )
    with torch.no_grad():
        assert task.network(faces).norm(dim=1).mean() == pytest.approx(1, abs=0.3)
        terms = task(faces, torch.arange(16), Progress(0, 100))
    assert terms["classification"].item() == pytest.approx(math.log(291), rel=0.05)


# ------------------------------------------------------------------------------------------------- by their names


@pytest.mark.parametrize(("name", "minimum"), [("resnet27", 48), *[(name, 17) for name in WITH_NORM]])
def test_an_input_that_is_too_small_is_refused_by_the_key_to_change(name: FaceModelName, minimum: int) -> None:
    network = build_face_network(tiny(name), minimum)
    assert network(torch.zeros(2, 3, minimum, minimum)).shape == (2, 16)
    assert (network.input_size, network.embedding_dim) == (minimum, 16)
    message = f"preprocessing.crop_size: {minimum - 1}, the network needs at least {minimum} pixels"
    with pytest.raises(ValueError, match=message):
        build_face_network(tiny(name), minimum - 1)
    with pytest.raises(ValueError, match=message):
        FaceRunConfig(
            data=FaceDataConfig(store=Path("x")),
            model=tiny(name),
            preprocessing=Preprocessing(face_size=128, crop_size=minimum - 1),
        )


def run_config(store: Path, name: FaceModelName, **course: Any) -> FaceRunConfig:
    return FaceRunConfig(
        data=FaceDataConfig(store=store),
        preprocessing=Preprocessing(face_size=56, crop_size=48),
        model=tiny(name),
        train=TrainConfig(precision="float32", compile=False, **{"batch_size": 24, "epochs": 1} | course),
    )


@pytest.mark.parametrize("name", NAMES)
def test_steps_make_the_loss_smaller_and_change_every_weight(name: FaceModelName) -> None:
    torch.manual_seed(0)
    task = FaceTask(tiny(name), LossConfig(), Preprocessing(face_size=48, crop_size=48), classes=4)
    task.to(memory_format=torch.channels_last).train()
    before = {key: tensor.clone() for key, tensor in task.state_dict().items()}
    labels = torch.arange(12) % 4
    patterns = nn.functional.interpolate(torch.rand(4, 3, 4, 4) * 255, size=48)[labels].permute(0, 2, 3, 1)
    faces = (patterns + 20 * torch.rand(12, 48, 48, 3)).clamp(0, 255).to(torch.uint8)
    alone = Processes(rank=0, world_size=1, local_size=1, device=torch.device("cpu"))
    trainer = Trainer(task, OptimizerConfig(learning_rate=0.05), TrainConfig(precision="float32"), alone)
    losses = [float(trainer.step(Batch(faces, labels), Progress(i, 12), lambda _: None)["loss"]) for i in range(12)]
    assert losses[-1] < losses[0] - 0.1
    same = [key for key, tensor in task.state_dict().items() if torch.equal(tensor, before[key])]
    assert same == []


@pytest.mark.parametrize("name", NAMES)
def test_a_run_exports_an_embedder_with_the_embeddings_of_its_network(
    name: FaceModelName, small_store: Path, tmp_path: Path
) -> None:
    """Running statistics travel too; the reference is the checkpoint's network."""
    config = run_config(small_store, name)
    train_run(config, tmp_path / "run")
    network, preprocessing, _ = load_embedder(tmp_path / "run" / "embedder.safetensors")
    state = load_newest_checkpoint(tmp_path / "run")
    assert state is not None
    task = FaceTask(config.model, config.loss, config.preprocessing, classes=6)
    task.load_state_dict(state["task"])
    faces = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    found = embed_faces(network, preprocessing, faces)
    np.testing.assert_array_equal(found, embed_faces(task.network.eval(), config.preprocessing, faces))
    assert np.ptp(found, axis=0).max() > 1e-4
    embedder = FaceEmbedder.load(tmp_path / "run")
    np.testing.assert_allclose(embedder.embed_aligned(list(faces)), found, rtol=1e-4, atol=1e-5 * np.abs(found).max())
    assert embedder.describe().startswith(f"{network.label}, {parameters(network):,} parameters, 16 dimensions, 48x48")


def test_an_embedder_from_before_there_were_names_is_a_resnet27(tmp_path: Path) -> None:
    path, config = tmp_path / "new.safetensors", tiny("resnet27")
    network = build_face_network(config, 48).eval()
    save_embedder(path, network, config, Preprocessing(face_size=56, crop_size=48), {"template": TEMPLATE.tolist()})
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["facegm"])
    assert description["architecture"] == "FaceResNet27"
    assert description["model"].pop("name") == "resnet27"
    old = tmp_path / "old.safetensors"
    save_file(network.state_dict(), old, metadata={"facegm": json.dumps(description)})
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(load_embedder(old)[0](images), network(images))
    for other, message in (("IResNet50", "Error.*IResNet50"), ("ViT", "format 1 of ViT")):
        save_file(network.state_dict(), old, metadata={"facegm": json.dumps(description | {"architecture": other})})
        with pytest.raises(FacegmError, match=f"this facegm cannot use the embedder .*{message}"):
            load_embedder(old)


def test_one_face_at_a_time_is_refused_where_there_is_batch_normalisation(
    small_store: Path, tmp_path: Path, torchrun: Torchrun
) -> None:
    """By one process from the configuration alone; by two, unless they take their statistics together."""
    run_config(small_store, "resnet27", batch_size=4, accumulate=4)
    with pytest.raises(ValueError, match=r"train\.accumulate: 1, must be at least 2 faces for MobileFaceNet"):
        run_config(small_store, "mobilefacenet", batch_size=4, accumulate=4)
    (tmp_path / "run.yaml").write_text(to_yaml(run_config(small_store, "mobilefacenet", batch_size=2)))
    train = ["-m", "facegm", "train", "--config", "run.yaml", "--train.epochs=0.1"]
    done = torchrun(2, [*train, "--output", "refused"], tmp_path)
    assert done.returncode != 0
    assert "train.batch_size: 2 on 2 process(es) in 1 part(s) is one image at a time" in done.stderr
    assert not (tmp_path / "refused").exists()
    done = torchrun(2, [*train, "--output", "trained", "--train.sync_batch_norm=true"], tmp_path)
    assert done.returncode == 0, done.stderr
