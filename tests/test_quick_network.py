"""The quick copy of a network computes what the network does, and leaves that as it is."""

import pytest
import torch
from moved_networks import move_batch_normalisation
from torch import nn

from facegm.models.cifar_resnet import CifarResNet
from facegm.models.image_network import ImageModelConfig, build_image_network
from facegm.models.quick_network import quick_copy

SIDE = 28


@pytest.fixture(params=["resnet20", "vgg13", "lenet_plus_plus"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    """With statistics and scales that have left 0 and 1; in training mode."""
    torch.manual_seed(0)
    module, _ = build_image_network(ImageModelConfig(name=request.param), 3)
    move_batch_normalisation(module)
    return module


def test_features_and_gradients_are_the_same(network: nn.Module) -> None:
    copy = quick_copy(network.double())
    assert network.training
    network.eval()
    for count in (1, 5):
        images = torch.rand(count, 3, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
        expected, found = network(images), copy(images)
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(expected.square().sum(), images)
        (of_copy,) = torch.autograd.grad(found.square().sum(), images)
        torch.testing.assert_close(of_copy, gradient)


def test_the_network_is_left_as_it_is() -> None:
    network = CifarResNet(8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy = quick_copy(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copy.modules())
    assert not any(part.training for part in copy.modules())
    assert not any(weight.requires_grad for weight in copy.parameters())
