"""ResNet-27 against the published layer table, parameter count and starting point."""

import math

import pytest
import torch
from torch import Tensor, nn

from facegm.losses.gm_module import GMLoss
from facegm.models.face_network import FaceModelConfig
from facegm.models.face_resnet import FaceResNet27, ResidualUnit
from facegm.schedule import Progress


def test_paper_network_has_27_convolutions_and_28847520_parameters() -> None:
    network = FaceResNet27(input_size=120)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    slopes = [module.weight for module in network.modules() if isinstance(module, nn.PReLU)]
    assert len(convolutions) == 27
    assert len(slopes) == 27
    assert sum(slope.numel() for slope in slopes) == 7264
    assert sum(parameter.numel() for parameter in network.parameters()) == 28_847_520
    assert [conv.padding for conv in convolutions if conv.bias is not None] == [(0, 0)] * 5
    assert all(conv.padding == (1, 1) for conv in convolutions if conv.bias is None)


def test_sides_of_the_feature_maps_at_120_pixels() -> None:
    network = FaceResNet27(input_size=120, width=0.1)
    sides = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    network(torch.zeros(1, 3, 120, 120))
    assert sides == [118, 116, 58, *[58] * 2, 56, 28, *[28] * 4, 26, 13, *[13] * 10, 11, 5, *[5] * 6]


def test_initial_classification_loss_is_log_classes() -> None:
    # Any other initialisation of this network without normalisation starts tens or hundreds of nats higher.
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(8, 3, 8, 8), size=120, mode="bicubic").clamp(0, 1) * 2 - 1
    network, loss = FaceResNet27(input_size=120), GMLoss(10_575, 512)
    with torch.no_grad():
        terms = loss(network(smooth), torch.arange(8), Progress(0, 100))  # alpha and lambda are at their lowest
    assert terms.classification.item() == pytest.approx(math.log(10_575), rel=0.05)


def test_residual_unit_adds_to_its_input() -> None:
    unit, x = ResidualUnit(7), torch.randn(2, 7, 6, 6)

    def prelu(values: Tensor, slope: Tensor) -> Tensor:
        return torch.where(values > 0, values, slope[:, None, None] * values)

    conv_a, slope_a, conv_b, slope_b = unit.parameters()
    inner = prelu(nn.functional.conv2d(x, conv_a, padding=1), slope_a)
    expected = x + prelu(nn.functional.conv2d(inner, conv_b, padding=1), slope_b)
    torch.testing.assert_close(unit(x), expected)


def test_width_and_size_are_parameters() -> None:
    network = FaceResNet27(input_size=60, width=0.375, embedding_dim=64)
    assert network(torch.zeros(2, 3, 60, 60)).shape == (2, 64)
    with pytest.raises(ValueError, match="at least 48"):
        FaceResNet27(input_size=47)
    with pytest.raises(ValueError, match="width"):
        FaceModelConfig(width=0.0)
