"""C&W and DDN against foolbox's and adv-lib's, on networks with positive logits and with negative ones."""

import pytest
import torch
from small_subjects import CLASSES, KINDS, Kind, small_subject, some_images
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.ddn import ddn
from facegm.adversarial.objectives import CrossEntropy, Margin
from facegm.adversarial.subject import UNIT_RANGE, Subject, outputs_of

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

COUNT = 48
LEARNING_RATE, SEARCH_STEPS, ITERATIONS, INITIAL_CONSTANT = 0.01, 6, 400, 1.0


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest) -> Subject:
    kind: Kind = request.param
    found = small_subject(kind)
    found.module.float()
    logits = outputs_of(found, some_images(COUNT).float()).logits
    assert ((logits > 0) == (kind == "positive")).all()
    return found


def distances(subject: Subject, images: Tensor, attacked: Tensor, classes: Tensor, *, is_targeted: bool) -> Tensor:
    """Of an attack that must have succeeded with all images."""
    with torch.no_grad():
        lead = torch.nn.functional.one_hot(classes, CLASSES) * 1e-4 * (-1 if is_targeted else 1)  # of rounding
        predicted = (outputs_of(subject, attacked).logits - lead).argmax(dim=1)
    assert ((predicted == classes) == is_targeted).all()
    return (attacked - images).flatten(1).norm(dim=1)
