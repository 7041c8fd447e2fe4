"""FGSM, BIM and PGD against torchattacks', on a small convolutional network with logits of either sign."""

import pytest
import torch
from torch import Tensor, nn

from facegm.adversarial.chance import generators_of, uniform
from facegm.adversarial.objectives import CrossEntropy
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, Subject

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

COUNT, CLASSES = 16, 10
EPSILON, STEP, ITERATIONS = 0.1, 0.01, 20


class Classifier(nn.Module):
    """Two convolutions with batch normalisation, an average and a linear layer, whose logits are moved."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.last = nn.Linear(128, CLASSES)

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = 5 * self.last(features) + self.shift
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.body(images))


@pytest.fixture(params=[50.0, -50.0], ids=["positive", "negative"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(request.param)
        network(torch.rand(64, 3, 16, 16))  # running statistics
    network = network.eval().requires_grad_(False)
    logits = network(photos())
    assert ((logits > 0) == (request.param > 0)).all()
    return network


def photos() -> Tensor:
    """Some pixels at the bounds."""
    rng = torch.Generator().manual_seed(1)
    return (1.4 * torch.rand(COUNT, 3, 16, 16, generator=rng) - 0.2).clamp(0, 1)


@pytest.mark.parametrize("is_targeted", [True, False])
@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD"])
def test_they_are_those_of_torchattacks(
    name: str, is_targeted: bool, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchattacks

    images, labels = photos(), classifier(photos()).argmax(dim=1)
    classes = (labels + 3) % CLASSES if is_targeted else labels
    subject = Subject(module=classifier, features=classifier.body, logits=classifier.logits)
    found = sign_attack(
        CrossEntropy(subject=subject, classes=classes, is_targeted=is_targeted),
        images,
        UNIT_RANGE,
        epsilon=EPSILON,
        step=EPSILON if name == "FGSM" else STEP,
        iterations=1 if name == "FGSM" else ITERATIONS,
        restarts=1 if name == "PGD" else 0,
        generators=generators_of(torch.arange(COUNT), 0),
    ).images
    if name == "PGD":  # from the same random points
        unit = uniform(generators_of(torch.arange(COUNT), 0), images.shape[1:])
        monkeypatch.setattr(Tensor, "uniform_", lambda _, low, high: low + (high - low) * unit)
    options = {"steps": ITERATIONS, "alpha": STEP} if name != "FGSM" else {}
    attack = getattr(torchattacks, name)(classifier, eps=EPSILON, **options)
    if is_targeted:
        attack.set_mode_targeted_by_function(lambda _, labels: (labels + 3) % CLASSES, quiet=True)
    torch.testing.assert_close(found, attack(images, labels), rtol=0, atol=1e-6)
    assert (found - images).abs().amax() > 0.99 * EPSILON
    assert ((classifier(found).argmax(dim=1) == classes) == is_targeted).any()
