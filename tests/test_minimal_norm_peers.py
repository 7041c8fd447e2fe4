"""C&W and DDN against foolbox's and adv-lib's, on networks with positive logits and with negative ones."""

import pytest
from small_subjects import CLASSES, KINDS, Kind, small_subject, some_images
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.ddn import ddn
from facegm.adversarial.objectives import CrossEntropy, Margin
from facegm.adversarial.subject import UNIT_RANGE, Subject, outputs_of

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

COUNT = 24
LEARNING_RATE, SEARCH_STEPS, ITERATIONS, INITIAL_CONSTANT = 0.01, 5, 500, 1.0
DDN_ITERATIONS = 1000


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest) -> Subject:
    kind: Kind = request.param
    found = small_subject(kind)
    found.module.float()
    assert ((outputs_of(found, photos()).logits > 0) == (kind == "positive")).all()
    return found


def photos() -> Tensor:
    return some_images(COUNT).float()


def classes_of(subject: Subject, *, is_targeted: bool) -> Tensor:
    """The next class, or without a target the predicted one."""
    predicted = outputs_of(subject, photos()).logits.argmax(dim=1)
    return (predicted + 1) % CLASSES if is_targeted else predicted


def mean_distance(subject: Subject, attacked: Tensor, *, is_targeted: bool) -> float:
    """Of an attack that has succeeded with every image."""
    predicted = outputs_of(subject, attacked).logits.argmax(dim=1)
    assert ((predicted == classes_of(subject, is_targeted=is_targeted)) == is_targeted).all()
    return float((attacked - photos()).flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize("is_targeted", [True, False])
def test_distances_are_those_of_foolbox_and_adv_lib(subject: Subject, is_targeted: bool) -> None:
    import foolbox
    from adv_lib.attacks import carlini_wagner_l2
    from adv_lib.attacks import ddn as adv_lib_ddn

    images, classes = photos(), classes_of(subject, is_targeted=is_targeted)
    margin = Margin(subject=subject, classes=classes, is_targeted=is_targeted)
    cross_entropy = CrossEntropy(subject=subject, classes=classes, is_targeted=is_targeted)
    ours = carlini_wagner(
        margin,
        images,
        UNIT_RANGE,
        learning_rate=LEARNING_RATE,
        search_steps=SEARCH_STEPS,
        iterations=ITERATIONS,
        initial_constant=INITIAL_CONSTANT,
    )
    ours_ddn = ddn(cross_entropy, images, UNIT_RANGE, iterations=DDN_ITERATIONS)
    assert ours.is_success.all()
    assert ours_ddn.is_success.all()

    of_adv_lib = carlini_wagner_l2(
        subject.module,
        images,
        classes,
        targeted=is_targeted,
        learning_rate=LEARNING_RATE,
        binary_search_steps=SEARCH_STEPS,
        max_iterations=ITERATIONS,
        initial_const=INITIAL_CONSTANT,
    )
    criterion = foolbox.criteria.TargetedMisclassification if is_targeted else foolbox.criteria.Misclassification
    of_foolbox = foolbox.attacks.L2CarliniWagnerAttack(
        SEARCH_STEPS, ITERATIONS, LEARNING_RATE, initial_const=INITIAL_CONSTANT
    ).run(foolbox.PyTorchModel(subject.module, bounds=(0, 1), device="cpu"), images, criterion(classes))
    ddn_of_adv_lib = adv_lib_ddn(
        subject.module, images, classes, targeted=is_targeted, steps=DDN_ITERATIONS, levels=None
    )
    distance, distance_of_ddn, adv_lib, foolbox_, adv_lib_s_ddn = (
        mean_distance(subject, attacked, is_targeted=is_targeted)
        for attacked in (ours.images, ours_ddn.images, of_adv_lib, of_foolbox, ddn_of_adv_lib)
    )
    print(f"\nC&W {distance:.4f}, adv-lib {adv_lib:.4f}, foolbox {foolbox_:.4f}; ", end="")
    print(f"DDN {distance_of_ddn:.4f}, adv-lib {adv_lib_s_ddn:.4f}")
    assert distance == pytest.approx(adv_lib, rel=0.01)
    assert distance == pytest.approx(foolbox_, rel=0.01)
    assert distance_of_ddn == pytest.approx(adv_lib_s_ddn, rel=0.005)
    assert distance_of_ddn < 1.02 * distance
