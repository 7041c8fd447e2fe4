"""Protects a classifier's way of seeing images, and its file: what is read is what was written, or is refused."""

import json
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import alternating, pictures
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facegm.classification.classifier import (
    MODEL_FILE,
    Description,
    ImageClassifier,
    load_classifier,
    save_classifier,
)
from facegm.classification.preprocessing import ImagePreprocessing
from facegm.classification.task import ImageTask
from facegm.data.preprocessing import Padding
from facegm.data.resident_images import CropDraws, PaddedCrop, ResidentImages
from facegm.data.samples import Batch, DrawnSamples
from facegm.errors import FacegmError
from facegm.losses.angular import ArcFaceConfig, CosFaceConfig
from facegm.losses.center import CenterLossConfig
from facegm.losses.config import LossConfig, LossName
from facegm.losses.gm_module import GMLossConfig
from facegm.losses.l_softmax import LSoftmaxConfig
from facegm.models.image_network import ImageModelConfig

LOSSES: tuple[LossName, ...] = get_args(LossName)
UNUSUAL = LossConfig(
    gm=GMLossConfig(alpha=0.7, likelihood_weight=0.05, regularizer="own", warmup_fraction=0.3),
    center=CenterLossConfig(weight=0.02, center_rate=0.25),
    l_softmax=LSoftmaxConfig(margin=3, base=10.0, minimum=2.0),
    cosface=CosFaceConfig(scale=20.0, margin=0.2),
    arcface=ArcFaceConfig(scale=30.0, margin=0.3),
)
"""Settings of each loss that are not those that it has by itself."""
SMALL = Description(
    model=ImageModelConfig(name="resnet20"),
    loss=replace(UNUSUAL, name="gm"),
    preprocessing=ImagePreprocessing(mean=[0.49, 0.48, 0.45], std=[0.2, 0.21, 0.22]),
    classes=("ant", "bee", "größere Biene", "\udcff.jpg"),
    channels=3,
    side=16,
)
"""Its last class is of a folder whose name is no text."""


def new_classifier(description: Description = SMALL) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(description)


# ------------------------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize(("channels", "count"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("border", ["reflect", "zero"])
@pytest.mark.parametrize("padding", [0, 3])
def test_inputs_are_cropped_mirrored_and_normalised_as_drawn(
    channels: int, count: int, border: Padding, padding: int
) -> None:
    preprocessing = ImagePreprocessing(mean=[0.3, 0.5, 0.4][:count], std=[0.2, 0.25, 0.5][:count])
    pixels = pictures(alternating(24, 4), 16, channels)
    crop = PaddedCrop(side=16, padding=padding, border=border, mirror=True)
    samples = ResidentImages(pixels, np.array(alternating(24, 4)), classes=4, crop=crop)
    task = ImageTask(new_classifier(replace(SMALL, channels=channels, preprocessing=preprocessing)), crop)
    numbers = np.arange(24)[::-1].copy()
    draws = samples.draw(numbers, np.random.default_rng(0))

    found = task.inputs(samples[DrawnSamples(numbers, draws)])

    assert found.shape == (24, channels, 16, 16)
    assert found.dtype == torch.float32
    around = ((padding, padding), (padding, padding), (0, 0))
    for row, number in enumerate(numbers):
        padded = np.pad(pixels[number], around, mode="reflect" if border == "reflect" else "constant")
        top, left = draws.top[row] + padding, draws.left[row] + padding
        cut = padded[top : top + 16, left : left + 16].astype(np.float64)
        cut = cut[:, ::-1] if draws.mirrored[row] else cut
        for channel in range(channels):
            k = channel if count == 3 else 0
            expected = (cut[:, :, channel] / 255 - preprocessing.mean[k]) / preprocessing.std[k]
            np.testing.assert_allclose(found[row, channel].numpy(), expected, rtol=0, atol=2e-6)
    assert 0 < draws.mirrored.sum() < 24
    assert padding == 0 or len({*draws.top, *draws.left}) > 3


def test_photos_come_cropped() -> None:
    pixels = pictures([0, 1], 16, 3)
    found = ImageTask(new_classifier(), None).inputs(Batch(torch.from_numpy(pixels), torch.tensor([0, 1])))
    expected = (pixels / 255 - SMALL.preprocessing.mean) / SMALL.preprocessing.std
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)


def test_a_task_trains_the_classifiers_own_weights_and_no_others() -> None:
    """Protects the names in a checkpoint: normalisation has numbers, but none that are learned or saved."""
    classifier = new_classifier()
    task = ImageTask(classifier, None)
    assert task.state_dict().keys() == classifier.state_dict().keys()
    own = {name: parameter.data_ptr() for name, parameter in classifier.named_parameters()}
    assert {name: parameter.data_ptr() for name, parameter in task.named_parameters()} == own


def test_a_classifier_sees_what_its_task_sees() -> None:
    """Protects the scale of 0 to 1, on which attacks change images, against that of training."""
    crop = PaddedCrop(side=16, padding=0, mirror=False)
    pixels = torch.from_numpy(pictures([0, 1, 2], 16, 3))
    middle = CropDraws(torch.zeros(3).long(), torch.zeros(3).long(), torch.zeros(3).bool())
    classifier = new_classifier().eval()
    task = ImageTask(classifier, crop)
    images = (pixels.permute(0, 3, 1, 2).double() / 255).float().requires_grad_()
    expected = task.loss.logits(task.network(task.inputs(Batch(pixels, torch.arange(3), middle))))
    torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-4)
    classifier(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": ImageModelConfig(name="lenet_plus_plus"), "side": 32},
            "^model.name: lenet_plus_plus takes images of 28 pixels, and these have 32$",
        ),
        (
            {"model": ImageModelConfig(name="resnet50"), "channels": 1, "preprocessing": ImagePreprocessing()},
            "^model.name: resnet50, takes RGB images",
        ),
        ({"channels": 1}, "^preprocessing.mean: 3 numbers, for images of 1 channel"),
        (
            {"channels": 1, "preprocessing": ImagePreprocessing(std=[0.1, 0.2, 0.3])},
            "^preprocessing.std: 3 numbers, for images of 1 channel",
        ),
    ],
)
def test_what_does_not_go_together_names_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FacegmError, match=message):
        new_classifier(replace(SMALL, **change))


def test_without_timm_the_key_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FacegmError, match=r"^model.name: seresnet50 is timm's"):
        new_classifier(replace(SMALL, model=ImageModelConfig(name="seresnet50")))


@pytest.mark.parametrize("value", [[], [0.1, 0.2], [0.1] * 4, [float("nan")], [0.5, float("inf"), 0.5]])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_numbers_of_a_normalisation_that_are_none_are_refused(name: str, value: list[float]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        ImagePreprocessing(**{name: value})


@pytest.mark.parametrize("value", [[0.0], [0.1, -0.1, 0.1]])
def test_a_deviation_is_above_0(value: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^std: .*must be above 0"):
        ImagePreprocessing(std=value)


# ------------------------------------------------------------------------------------------------- its file


def trained_a_little(description: Description) -> ImageClassifier:
    """With running statistics, class vectors and centers that are not those of the beginning."""
    classifier = new_classifier(description)
    images, labels = torch.rand(8, description.channels, 16, 16), torch.arange(8) % len(description.classes)
    classifier.train()
    terms = classifier.loss(classifier.features(images), labels)
    terms.total.backward()
    with torch.no_grad():
        for parameter in classifier.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=0.05)
    return classifier.eval()


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_written_is_read(name: LossName, tmp_path: Path) -> None:
    description = replace(SMALL, loss=replace(UNUSUAL, name=name))
    classifier = trained_a_little(description)
    save_classifier(tmp_path / MODEL_FILE, description, classifier.state_dict())
    for path in (tmp_path, tmp_path / MODEL_FILE):  # the run folder, or the file
        found = load_classifier(path)
        assert not found.training
        d = found.description
        assert (d.model, d.preprocessing, d.classes, d.channels, d.side) == (
            description.model,
            description.preprocessing,
            description.classes,
            description.channels,
            description.side,
        )
        assert (d.loss.name, d.loss.chosen) == (name, getattr(UNUSUAL, name, None))
        images = torch.rand(5, 3, 16, 16)
        assert torch.equal(found(images), classifier(images))
        assert found.state_dict().keys() == classifier.state_dict().keys()
        assert all(torch.equal(tensor, classifier.state_dict()[key]) for key, tensor in found.state_dict().items())


def test_dropout_is_written_where_there_is_some(tmp_path: Path) -> None:
    """Protects files of networks without it, which are to be as before there was any."""
    for dropout in (0.0, 0.5):
        description = replace(SMALL, model=ImageModelConfig(name="resnet20", feature_dropout=dropout))
        path = tmp_path / MODEL_FILE
        classifier = trained_a_little(description)
        save_classifier(path, description, classifier.state_dict())
        with safe_open(path, framework="pt") as opened:
            model = json.loads(opened.metadata()["facegm"])["model"]
        assert model.get("feature_dropout") == (dropout or None)
        found, images = load_classifier(path), torch.rand(5, 3, 16, 16)
        assert found.description.model.feature_dropout == dropout
        assert torch.equal(found(images), classifier(images))


def test_logits_of_the_gm_loss_are_those_of_distances(tmp_path: Path) -> None:
    """Posteriors of a Gaussian of unit variance around each mean, from what lies in the file alone."""
    save_classifier(tmp_path / "c", SMALL, trained_a_little(SMALL).state_dict())
    images = torch.rand(5, 3, 16, 16)
    classifier = load_classifier(tmp_path / "c").double()
    features, means = classifier.features(images.double()), load_file(tmp_path / "c")["loss.means"].double()
    densities = (-0.5 * (features[:, None] - means[None]).square().sum(2)).exp()
    torch.testing.assert_close(classifier(images.double()).softmax(1), densities / densities.sum(1, keepdim=True))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / MODEL_FILE
    save_classifier(path, SMALL, trained_a_little(SMALL).state_dict())
    return path


def refused(path: Path, *words: str) -> None:
    """In one line, which names the file and does not go on for ever."""
    with pytest.raises(FacegmError) as caught:
        load_classifier(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400, message
    for word in words:
        assert word in message


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]
"""Of a file's metadata and tensors."""


def changed(file: Path, path: Path, change: Change) -> Path:
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["facegm"])
    tensors = load_file(file)
    change(metadata, tensors)
    save_file(tensors, path, {"facegm": json.dumps(metadata)})
    return path


FIRST = "network.trunk.0.weight"
CHANGES: dict[str, tuple[Change, Sequence[str]]] = {
    "another format": (lambda m, _: m.update(format=2), ["format 2 of ImageClassifier"]),
    "another architecture": (lambda m, _: m.update(architecture="FaceResNet27"), ["format 1 of FaceResNet27"]),
    "no model": (lambda m, _: m.pop("model"), ["model"]),
    "an unknown network": (lambda m, _: m["model"].update(name="resnet21"), ["resnet21"]),
    "an unknown key": (lambda m, _: m["model"].update(width=2), ["width"]),
    "a wrong setting": (lambda m, _: m["loss"]["settings"].update(alpha=-1.0), ["alpha: -1.0"]),
    "an unknown loss": (lambda m, _: m["loss"].update(name="hinge", settings={}), ["hinge"]),
    "another loss": (lambda m, _: m["loss"].update(name="softmax", settings={}), ["loss.means"]),
    "another network": (lambda m, _: m["model"].update(name="resnet110"), ["network.trunk"]),
    "fewer classes": (lambda m, _: m["classes"].pop(), ["loss.means"]),
    "another side": (
        lambda m, _: m.update(model={"name": "lenet_plus_plus"}),
        ["model.name: lenet_plus_plus takes images of 28 pixels"],
    ),
    "grey": (lambda m, _: m.update(channels=1), ["preprocessing.mean"]),
    "no number as mean": (lambda m, _: m["preprocessing"].update(mean=[float("nan")]), ["mean: [nan]"]),
    "a deviation of 0": (lambda m, _: m["preprocessing"].update(std=[0.0]), ["std: [0.0]"]),
    "no weights": (lambda _, t: t.clear(), ["network.trunk"]),
    "a tensor missing": (lambda _, t: t.pop(FIRST), [FIRST]),
    "a tensor too many": (lambda _, t: t.update(more=torch.zeros(1)), ["more"]),
    "another shape": (lambda _, t: t.update({FIRST: t[FIRST][:, :, :1].contiguous()}), [FIRST]),
    "a weight that is no number": (lambda _, t: t[FIRST].view(-1)[3].fill_(torch.nan), ["not finite", FIRST]),
    "an infinite mean": (lambda _, t: t["loss.means"][0].fill_(torch.inf), ["not finite", "loss.means"]),
    "a weight beyond single precision": (
        lambda _, t: t.update({FIRST: t[FIRST].double() + 1e300}),
        ["not finite", FIRST],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_is_not_sound_is_refused(name: str, file: Path, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    refused(changed(file, tmp_path / "changed", change), *words)


def test_what_is_no_file_of_a_classifier_is_refused(file: Path, tmp_path: Path) -> None:
    for name, content in {
        "empty": b"",
        "text": b"weights",
        "cut": file.read_bytes()[:-1],
        "head": file.read_bytes()[:100],
        "long": struct.pack("<Q", 2**40) + b"{}",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "damaged or not a safetensors file")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    refused(tmp_path / "foreign", "not a classifier that this facegm can use")
    save_file({"weight": torch.zeros(2)}, tmp_path / "list", {"facegm": "[]"})
    refused(tmp_path / "list", "not a classifier that this facegm can use")
    save_file({"weight": torch.zeros(2)}, tmp_path / "text", {"facegm": "{"})
    refused(tmp_path / "text", "not a classifier that this facegm can use")
    refused(tmp_path / "nothing", "no such classifier")
    with pytest.raises(FacegmError, match=rf"^{tmp_path}/{MODEL_FILE}: no such classifier"):
        load_classifier(tmp_path)


def read_or_refused(path: Path) -> None:
    message = f"{path}: "
    try:
        load_classifier(path)
    except FacegmError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.integers(10**18, 10**320),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=2),
    max_leaves=3,
)
PLACES: list[tuple[str, ...]] = [
    *((key,) for key in ("format", "architecture", "model", "loss", "preprocessing", "classes", "channels", "side")),
    *(("model", key) for key in ("name", "feature_dim", "feature_relu", "feature_dropout", "new")),
    *(("loss", key) for key in ("name", "settings")),
    *(("loss", "settings", key) for key in ("alpha", "likelihood_weight", "regularizer", "shard_means", "new")),
    *(("preprocessing", key) for key in ("mean", "std", "new")),
]


@pytest.mark.filterwarnings("ignore:likelihood_weight:UserWarning", "ignore:Initializing zero-element:UserWarning")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_whatever_stands_in_its_metadata_it_is_read_or_refused(file: Path, place: tuple[str, ...], value: Any) -> None:
    def change(metadata: dict[str, Any], _: object) -> None:
        for key in place[:-1]:
            metadata = metadata[key]
        metadata[place[-1]] = value

    path = changed(file, file.with_name("changed"), change)
    read_or_refused(path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_byte_of_its_head_is_damaged_it_is_read_or_refused(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[data.draw(st.integers(0, length + 8))] = data.draw(st.integers(0, 255))
    path = file.with_name("damaged")
    path.write_bytes(content)
    read_or_refused(path)
