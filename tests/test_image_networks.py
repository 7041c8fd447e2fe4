"""Protects the paper's networks: their sizes, what they compute, how they begin, and which images they take."""

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import pytest
import timm
import torch
import torchvision.models
from naive_networks import double, naive_cifar_resnet, naive_lenet, naive_vgg13
from torch import Tensor, nn

from facegm.identity import chosen_in
from facegm.models.cifar_resnet import CifarResNet
from facegm.models.image_network import ImageModelConfig, ImageNetworkName, build_image_network

NAMES: tuple[ImageNetworkName, ...] = get_args(ImageNetworkName)
OWN: tuple[ImageNetworkName, ...] = ("lenet_plus_plus", "resnet20", "resnet32", "resnet56", "resnet110", "vgg13")
LIBRARIES: tuple[ImageNetworkName, ...] = ("resnet18", "resnet50", "resnet101", "resnext50", "seresnet50")
UNITS = {"resnet20": 3, "resnet32": 5, "resnet56": 9, "resnet110": 18}


@cache
def built(name: ImageNetworkName, channels: int = 3, feature_dim: int = 2) -> tuple[nn.Module, int]:
    """Each network once; what changes one takes a copy."""
    torch.manual_seed(5)
    config = ImageModelConfig(name=name, feature_dim=feature_dim if name == "lenet_plus_plus" else 100)
    return build_image_network(config, channels)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------------------- sizes


def lenet_size(feature_dim: int) -> int:
    convolutions = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    of_convolutions = sum(25 * incoming * outgoing + outgoing + 1 for incoming, outgoing in convolutions)
    return of_convolutions + 3 * 3 * 128 * feature_dim + feature_dim  # 28 -> 14 -> 7 -> 3


def normalized_size(incoming: int, outgoing: int, kernel: int = 3, groups: int = 1) -> int:
    """A convolution without bias, and scale and shift of each channel."""
    return kernel**2 * incoming // groups * outgoing + 2 * outgoing


def cifar_size(units: int, channels: int = 3) -> int:
    total = normalized_size(channels, 16) + units * 2 * normalized_size(16, 16)
    for before, after in ((16, 32), (32, 64)):
        total += normalized_size(before, after) + (2 * units - 1) * normalized_size(after, after)
    return total


def vgg_size(channels: int = 3) -> int:
    widths = [channels, *[96] * 5, *[192] * 4, *[384] * 4]
    return sum(normalized_size(*pair) for pair in pairwise(widths))


def resnet18_size() -> int:
    total, incoming = normalized_size(3, 64, 7), 64
    for width in (64, 128, 256, 512):
        total += normalized_size(incoming, width) + 3 * normalized_size(width, width)
        total += normalized_size(incoming, width, 1) if width > incoming else 0
        incoming = width
    return total


def bottlenecks_size(blocks: Sequence[int], *, width: int = 64, groups: int = 1, has_gates: bool = False) -> int:
    """1x1, 3x3, 1x1, to 4 times the stage's 64, 128, 256, 512; a 1x1 in the shortcut of each stage's first."""
    total, incoming = normalized_size(3, 64, 7), 64
    for stage, count in enumerate(blocks):
        inner, outgoing = width * 2**stage, 256 * 2**stage
        for block in range(count):
            total += normalized_size(incoming, inner, 1) + normalized_size(inner, inner, 3, groups)
            total += normalized_size(inner, outgoing, 1)
            total += normalized_size(incoming, outgoing, 1) if block == 0 else 0
            squeezed = outgoing // 16  # squeeze and excitation: two layers with bias
            total += 2 * outgoing * squeezed + squeezed + outgoing if has_gates else 0
            incoming = outgoing
    return total


SIZES: dict[tuple[ImageNetworkName, int, int], tuple[int, int]] = {
    # name, channels, feature_dim: by arithmetic, as published
    ("lenet_plus_plus", 1, 2): (lenet_size(2), 797_160),
    ("lenet_plus_plus", 1, 100): (lenet_size(100), 910_154),
    ("resnet20", 3, 2): (cifar_size(3), 269_072),
    ("resnet32", 3, 2): (cifar_size(5), 463_504),
    ("resnet32", 1, 2): (cifar_size(5, channels=1), 463_216),
    ("resnet56", 3, 2): (cifar_size(9), 852_368),
    ("resnet110", 3, 2): (cifar_size(18), 1_727_312),
    ("vgg13", 3, 2): (vgg_size(), 6_146_016),
    ("resnet18", 3, 2): (resnet18_size(), 11_689_512 - 513_000),  # torchvision's, without fc
    ("resnet50", 3, 2): (bottlenecks_size((3, 4, 6, 3)), 25_556_032 - 1000 * 2048),
    ("resnet101", 3, 2): (bottlenecks_size((3, 4, 23, 3)), 44_548_160 - 1000 * 2048),
    ("resnext50", 3, 2): (bottlenecks_size((3, 4, 6, 3), width=128, groups=32), 25_027_904 - 1000 * 2048),
    ("seresnet50", 3, 2): (bottlenecks_size((3, 4, 6, 3), has_gates=True), 28_088_024 - 2_049_000),
}
"""Of SE-ResNet-50 timm publishes 28.09 million with fc, whose weights and biases are 2048 x 1000 and 1000."""


def test_every_network_is_counted() -> None:
    assert {name for name, _, _ in SIZES} == set(NAMES) == {*OWN, *LIBRARIES}


@pytest.mark.parametrize(("name", "channels", "feature_dim"), SIZES)
def test_the_sizes_are_those_of_the_tables(name: ImageNetworkName, channels: int, feature_dim: int) -> None:
    by_arithmetic, published = SIZES[name, channels, feature_dim]
    assert by_arithmetic == published
    assert parameters(built(name, channels, feature_dim)[0]) == published


# ------------------------------------------------------------------------------------------------- outputs


@torch.no_grad()
def shaken(network: nn.Module) -> nn.Module:
    """With slopes, scales, shifts and running statistics as training might leave them; in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high)
        elif isinstance(module, nn.PReLU):
            module.weight.uniform_(-0.5, 0.7)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.weight.mul_(3)  # or nothing of the images would reach LeNet's features
    return network.double().eval()


def outputs_equal(network: nn.Module, naive: Callable[[list[Tensor]], Tensor], images: Tensor) -> None:
    found, expected = network(images), naive(double(network.state_dict()))
    assert expected.std() > 1e-3, "the comparison would not see much"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("feature_dim", "is_relu"), [(2, False), (100, True)])
def test_lenet_computes_what_is_written_out(feature_dim: int, is_relu: bool) -> None:
    torch.manual_seed(0)
    config = ImageModelConfig(name="lenet_plus_plus", feature_dim=feature_dim, feature_relu=is_relu)
    network, dim = build_image_network(config, 1)
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    outputs_equal(shaken(network), lambda tensors: naive_lenet(tensors, images, is_relu=is_relu), images)
    assert dim == feature_dim
    assert network(images).shape == (3, dim)
    assert bool((network(images) == 0).any()) == is_relu, "what a ReLU takes away is there to be taken away"


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (13, 1)])
def test_cifar_resnets_compute_what_is_written_out(name: ImageNetworkName, side: int, channels: int) -> None:
    """Protects the shortcut without weights, on maps of an odd size too, and the order of normalisation and ReLU."""
    torch.manual_seed(0)
    network, dim = build_image_network(ImageModelConfig(name=name), channels)
    images = torch.randn(2, channels, side, side, dtype=torch.float64)
    outputs_equal(shaken(network), lambda tensors: naive_cifar_resnet(tensors, images, UNITS[name]), images)
    assert network(images).shape == (2, dim) == (2, 64)


def test_a_shortcut_passes_every_other_pixel_between_channels_of_zeros() -> None:
    """With a body of nothing, a block that grows is its shortcut alone."""
    network = CifarResNet(20)
    block = next(m for m in network.trunk if getattr(m, "_new_channels", 0) == 16)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    x = torch.rand(1, 16, 5, 6)
    found = block.eval()(x)
    assert found.shape == (1, 32, 3, 3)
    for channel in range(32):
        expected = x[0, channel - 8, [0, 2, 4]][:, [0, 2, 4]] if 8 <= channel < 24 else torch.zeros(3, 3)
        assert torch.equal(found[0, channel], expected)


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (18, 1)])
def test_vgg_computes_what_is_written_out(side: int, channels: int) -> None:
    torch.manual_seed(0)
    network, dim = build_image_network(ImageModelConfig(name="vgg13"), channels)
    images = torch.randn(1, channels, side, side, dtype=torch.float64)
    outputs_equal(shaken(network), lambda tensors: naive_vgg13(tensors, images), images)
    assert network(images).shape == (1, dim) == (1, 384)


def library_network(name: ImageNetworkName) -> tuple[Any, int]:
    """The library's own, without memory for weights, and the length of what its last layer is given."""
    own_names: dict[str, str] = {"resnext50": "resnext50_32x4d"}
    with torch.device("meta"):
        if name == "seresnet50":
            return timm.create_model("seresnet50"), 2048
        network = getattr(torchvision.models, own_names.get(name, name))()
    return network, 512 if name == "resnet18" else 2048


@pytest.mark.parametrize("name", LIBRARIES)
def test_bodies_of_libraries_are_the_librarys_networks_before_their_last_layer(name: ImageNetworkName) -> None:
    network, dim = built(name)
    whole, expected_dim = library_network(name)
    assert dim == expected_dim
    fc = nn.Linear(dim, 1000)
    state = network.state_dict() | {f"fc.{key}": tensor for key, tensor in fc.state_dict().items()}
    whole.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.eval()(images)
        torch.testing.assert_close(fc(features), whole.eval()(images))
    assert features.shape == (2, dim)
    assert features.min() >= 0, "the mean of what a ReLU has left"


# ------------------------------------------------------------------------------------------------- how they begin


def assert_spread(weight: Tensor, deviation: float) -> None:
    """Mean 0 and such a standard deviation, within five standard errors."""
    count = weight.numel()
    assert abs(weight.std().item() / deviation - 1) < 5 / math.sqrt(2 * count)
    assert abs(weight.mean().item()) < 5 * deviation / math.sqrt(count)


@pytest.mark.parametrize("name", [name for name in OWN if name != "lenet_plus_plus"])
def test_convolutions_begin_as_he_et_al_have_it_by_what_goes_out(name: ImageNetworkName) -> None:
    convolutions = [module for module in built(name)[0].modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == (13 if name == "vgg13" else 6 * UNITS[name] + 1)
    for conv in convolutions:
        assert_spread(conv.weight, math.sqrt(2 / (9 * conv.out_channels)))
        assert conv.bias is None


def test_lenet_begins_as_torch_has_it() -> None:
    for module in built("lenet_plus_plus", 1)[0].modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())  # uniform
            assert module.weight.abs().max().item() <= bound
            assert_spread(module.weight, bound / math.sqrt(3))
        elif isinstance(module, nn.PReLU):
            assert module.weight.tolist() == [0.25]


def test_vggs_running_statistics_move_as_slowly_as_caffes() -> None:
    torch.manual_seed(0)
    network, _ = build_image_network(ImageModelConfig(name="vgg13"), 3)
    images = torch.randn(2, 3, 16, 16) + 1
    network.train()(images)
    first, norm = (next(m for m in network.modules() if isinstance(m, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.03 * first(images).mean((0, 2, 3)).detach())


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 19, 21, 100])
def test_depths_that_are_not_6n_plus_2_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"^depth: {depth}, must be 6n \+ 2"):
        CifarResNet(depth)


@pytest.mark.parametrize("name", LIBRARIES)
def test_networks_for_photos_refuse_grey_images(name: ImageNetworkName) -> None:
    with pytest.raises(ValueError, match=rf"^name: {name}, takes RGB images"):
        build_image_network(ImageModelConfig(name=name), 1)


def test_a_feature_has_a_length() -> None:
    with pytest.raises(ValueError, match=r"^feature_dim: 0, must be at least 1"):
        ImageModelConfig(feature_dim=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_shapes_a_feature_is_refused_where_it_would_shape_none(name: ImageNetworkName) -> None:
    """Protects from a setting that changes nothing but the run's identity."""
    for key, value, default in (("feature_dim", 2, 100), ("feature_relu", True, False)):
        chosen: dict[str, Any] = {key: value}
        if name == "lenet_plus_plus":
            assert getattr(ImageModelConfig(name=name, **chosen), key) == value
        else:
            with pytest.raises(ValueError, match=rf"^{key}: {value}, must be {default} for {name}; "):
                ImageModelConfig(name=name, **chosen)
        assert getattr(ImageModelConfig(name=name), key) == default


def test_without_timm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"^name: seresnet50 is timm's; install it: pip install 'facegm\[timm\]'"):
        build_image_network(ImageModelConfig(name="seresnet50"), 3)


def test_only_lenet_asks_for_a_side() -> None:
    assert {name: ImageModelConfig(name=name).input_side for name in NAMES} == {
        name: 28 if name == "lenet_plus_plus" else None for name in NAMES
    }


@pytest.mark.parametrize("name", ["lenet_plus_plus", "resnet20"])
def test_features_are_dropped_out_in_training_alone(name: ImageNetworkName) -> None:
    """Each number with its chance, and what is left grows by as much, as a detector's passes have it."""
    plain, dim = built(name, 3)
    own_dim = dim if name == "lenet_plus_plus" else 100
    config = ImageModelConfig(name=name, feature_dim=own_dim, feature_dropout=0.25)
    network, same_dim = build_image_network(config, 3)
    assert same_dim == dim
    network.load_state_dict(dict(zip(network.state_dict(), plain.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.eval()(images)
        assert torch.equal(network.eval()(images), expected)
        for module in network.modules():
            module.train(isinstance(module, nn.Dropout))
        ratios = torch.stack([network(images) / expected for _ in range(40)])[:, expected != 0]
    assert ((ratios == 0) | ((ratios - 4 / 3).abs() < 1e-5)).all()
    assert 0.1 < (ratios == 0).float().mean() < 0.4


def test_without_dropout_a_network_and_its_cells_are_as_before_there_was_any() -> None:
    assert isinstance(build_image_network(ImageModelConfig(name="resnet20"), 3)[0], CifarResNet)
    assert chosen_in(ImageModelConfig(name="resnet20")) == {"name": "resnet20"}
    assert chosen_in(ImageModelConfig(feature_dropout=0.5)) == {"feature_dropout": 0.5}


@pytest.mark.parametrize("chance", [-0.1, 1.0, math.nan])
def test_dropout_leaves_something(chance: float) -> None:
    with pytest.raises(ValueError, match=r"^feature_dropout: .*, must be from 0 to below 1"):
        ImageModelConfig(feature_dropout=chance)
