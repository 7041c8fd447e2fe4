"""Protects what attackers of a face system aim at: the protocol's own decision, and a gradient through all between."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from face_runs import MODEL, SMALL
from plain_embeddings import embed_faces
from torch import Tensor

from facegm.adversarial.carlini_wagner import carlini_wagner
from facegm.adversarial.ddn import ddn
from facegm.adversarial.face_objectives import GOALS, EmbeddingDistance, Goal
from facegm.adversarial.face_subject import AlignedFaceNetwork
from facegm.adversarial.result import Attacked, distortion
from facegm.adversarial.sign_attack import gradient_of, sign_attack
from facegm.adversarial.subject import UNIT_RANGE, Subject
from facegm.adversarial.verifier import Verifier, first_of_each_fold, fit_verifier, judged_right
from facegm.data.preprocessing import Preprocessing
from facegm.eval.metrics import threshold_at
from facegm.eval.pairs import Pairs
from facegm.eval.protocol import verify
from facegm.eval.scores import NO_PCA, PCA_64, PCA_64_RENORMALISED, Variant
from facegm.models.face_network import build_face_network

SIDE = 128
VARIANTS = (NO_PCA, replace(PCA_64, components=4), replace(PCA_64_RENORMALISED, components=4))


def smooth_faces(count: int, seed: int = 0) -> np.ndarray:
    """Patterns of 128x128, 0 to 255."""
    import cv2

    rng = np.random.default_rng(seed)
    fields = [
        cv2.resize(rng.uniform(0, 255, (6, 6, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for _ in range(count)
    ]
    return np.clip(fields, 0, 255).astype(np.uint8)


def unit(faces: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(faces).permute(0, 3, 1, 2).to(dtype) / 255


def face_network(preprocessing: Preprocessing = SMALL, seed: int = 0) -> AlignedFaceNetwork:
    torch.manual_seed(seed)
    network = build_face_network(MODEL, preprocessing.crop_size).eval().requires_grad_(False)
    return AlignedFaceNetwork(network, preprocessing, SIDE)


def subject_of(module: AlignedFaceNetwork) -> Subject:
    return Subject(module=module, features=module, logits=lambda features: features)


def random_pairs(count: int = 60, folds: int = 3) -> tuple[np.ndarray, np.ndarray, Pairs]:
    """Embeddings of which those of one person are nearer on the whole."""
    rng = np.random.default_rng(1)
    same = np.arange(count) % 2 == 0
    a = rng.normal(size=(count, 8)) + 0.5
    b = np.where(same[:, None], a + 0.7 * rng.normal(size=a.shape), rng.normal(size=a.shape) + 0.5)
    names = tuple(map(str, range(count)))
    return a, b, Pairs(names, names, same, np.arange(count) % folds)


@pytest.mark.parametrize(("face_size", "crop_size"), [(56, 48), (64, 60), (100, 96), (128, 120), (160, 150)])
def test_the_network_sees_of_a_face_what_the_embedder_shows_it(face_size: int, crop_size: int) -> None:
    """Resized and cropped to the same pixels, but that these are not rounded to 8 bits; at 128 pixels exactly."""
    preprocessing = Preprocessing(face_size=face_size, crop_size=crop_size)
    faces = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    seen: list[Tensor] = []
    module = face_network(preprocessing)
    module.network.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.to(torch.float64)(unit(faces, torch.float64))
    for found, expected in zip(seen, (faces, faces[:, :, ::-1]), strict=True):
        pixels = 128 * found.permute(0, 2, 3, 1).numpy() + 127.5
        difference = np.abs(pixels - preprocessing.middle_crops(expected))
        assert difference.max() < {128: 1e-9, 160: 1.0}.get(face_size, 0.5 + 1e-3)  # bilinear in fixed point


@pytest.mark.parametrize("mirror", [True, False])
def test_a_face_is_embedded_as_by_the_embedder(mirror: bool) -> None:
    """Which sums the mirror images; here is their mean."""
    preprocessing = Preprocessing(face_size=SIDE, crop_size=60, mirror=mirror)
    faces, module = smooth_faces(3), face_network(preprocessing)
    expected = embed_faces(module.network, preprocessing, faces) / (2 if mirror else 1)
    assert module(unit(faces)).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pairs_are_judged_as_by_the_protocol(variant: Variant) -> None:
    """Distances under each fold's own PCA, and thresholds of the other folds, of embeddings of any scale."""
    a, b, pairs = random_pairs()
    verifier, _ = fit_verifier(a, b, pairs, variant=variant)
    expected = verify(a, b, pairs.same, pairs.fold, variant=variant)
    fold = torch.from_numpy(pairs.fold)
    left, right = (verifier.compared(torch.from_numpy(0.5 * side), fold) for side in (a, b))
    assert (left - right).norm(dim=1).numpy() == pytest.approx(expected.distances)
    assert verifier.thresholds.numpy() == pytest.approx(expected.fold_threshold)


def test_thresholds_at_a_false_accept_rate() -> None:
    """No more than the share is accepted of the other folds' pairs, and with any larger threshold more."""
    a, b, pairs = random_pairs()
    verifier, result = fit_verifier(a, b, pairs, variant=NO_PCA, false_accept_rate=0.1)
    for number, threshold in enumerate(verifier.thresholds.tolist()):
        others = result.distances[~pairs.same & (pairs.fold != number)]
        assert (others < threshold).sum() == 2  # a tenth of twenty
        assert (others <= threshold).sum() == 3
    assert threshold_at(np.arange(100.0), 0.29) == 29
    right = judged_right(verifier, result, pairs)
    for number in range(len(pairs)):
        is_accepted = np.linalg.norm(a[number] / np.linalg.norm(a[number]) - b[number] / np.linalg.norm(b[number]))
        assert right[number] == ((is_accepted < verifier.thresholds[pairs.fold[number]]) == pairs.same[number])


def test_pairs_are_taken_from_all_folds() -> None:
    assert first_of_each_fold(np.array([0, 0, 0, 1, 1, 1, 2]), 5).tolist() == [0, 1, 3, 4, 6]
    assert first_of_each_fold(np.array([2, 2, 5]), 10).tolist() == [0, 1, 2]


def objective_of(goal: Goal, variant: Variant, dtype: torch.dtype, **more: float) -> tuple[EmbeddingDistance, Tensor]:
    """Of four photos in three folds, and the photos, 0 to 1."""
    module = face_network().to(dtype)
    faces, fold = unit(smooth_faces(8), dtype), torch.tensor([2, 0, 1, 1])
    rng = np.random.default_rng(3)
    verifier = Verifier(variant=variant, thresholds=torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64))
    if variant.components:
        mean = torch.from_numpy(0.1 * rng.normal(size=(3, 16)))
        axes = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 16, variant.components)))[0])
        verifier = replace(verifier, mean=mean, axes=axes)
    references = verifier.compared(module(faces[4:]), fold)
    subject = subject_of(module)
    return (
        EmbeddingDistance(subject=subject, verifier=verifier, goal=goal, references=references, folds=fold, **more),
        faces[:4],
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("goal", GOALS)
def test_the_loss_of_each_photo_is_that_of_a_plain_computation(goal: Goal, variant: Variant) -> None:
    """One photo at a time, in numpy and float64; some of the rows, in any order."""
    objective, photos = objective_of(goal, variant, torch.float64, margin=0.05)
    rows = torch.tensor([3, 0, 1])
    judged = objective(photos[rows], rows)
    for place, row in enumerate(rows.tolist()):
        e = objective.subject.features(photos[row : row + 1])[0].numpy()
        e = e / np.sqrt((e * e).sum())
        fold = int(objective.folds[row])
        if objective.verifier.mean is not None and objective.verifier.axes is not None:
            e = (e - objective.verifier.mean[fold].numpy()) @ objective.verifier.axes[fold].numpy()
            e = e / np.sqrt((e * e).sum()) if variant.renormalise else e
        distance = np.sqrt(((e - objective.references[row].numpy()) ** 2).sum())
        threshold = [0.5, 0.6, 0.7][fold]
        beyond = distance**2 - threshold**2
        assert judged.loss[place].item() == pytest.approx((beyond if goal == "impersonation" else -beyond) + 0.05)
        assert judged.is_reached[place].item() is bool((distance < threshold) == (goal == "impersonation"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_that_of_finite_differences(variant: Variant) -> None:
    """Of single pixels of the aligned face, through resize, crop, both mirror images, normalisation and PCA."""
    objective, photos = objective_of("impersonation", variant, torch.float64)
    rows = torch.arange(4)
    gradient, _ = gradient_of(objective, photos, rows)
    largest = gradient.flatten(1).abs().topk(3, dim=1).indices
    for row in range(4):
        for pixel in largest[row].tolist():
            step = torch.zeros(photos.shape, dtype=torch.float64)
            step.flatten(1)[row, pixel] = 1e-5
            change = objective(photos + step, rows).loss - objective(photos - step, rows).loss
            assert change[row].item() / 2e-5 == pytest.approx(gradient.flatten(1)[row, pixel].item(), rel=1e-3)
            assert change[torch.arange(4) != row].abs().max() == 0  # each image's loss is its own


def test_pixels_that_the_crop_leaves_out_have_no_gradient() -> None:
    preprocessing = Preprocessing(face_size=64, crop_size=60)  # of 128x128: four pixels on each side
    photo = unit(smooth_faces(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(face_network(preprocessing)(photo).square().sum(), photo)
    has_gradient = gradient.abs().sum(dim=(0, 1)) > 0
    assert has_gradient[4:-4, 4:-4].all()
    assert not has_gradient[:4].any()
    assert not has_gradient[:, -4:].any()


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("attack", ["sign", "carlini_wagner", "ddn"])
def test_the_attacks_reach_the_goal_by_the_protocol(goal: Goal, attack: str) -> None:
    """Whatever loop changes the photos; thresholds lie between the distances of the clean pairs and the goal."""
    objective, photos = objective_of(goal, NO_PCA, torch.float32)
    squared = objective.verifier.compared(objective.subject.features(photos), objective.folds) - objective.references
    distance = squared.norm(dim=1)
    factor = 0.9 if goal == "impersonation" else 1.1
    verifier = replace(objective.verifier, thresholds=distance.double() * factor)
    objective = replace(objective, verifier=verifier, folds=torch.arange(4))
    assert not objective(photos, torch.arange(4)).is_reached.any()
    attacked = attacked_by(attack, objective, photos)
    assert attacked.is_success.all()
    compared = verifier.compared(objective.subject.features(attacked.images), objective.folds)
    found = (compared - objective.references).norm(dim=1)
    assert bool(
        ((found < distance * factor) if goal == "impersonation" else (found >= distance * factor * 0.9999)).all()
    )
    if attack != "sign":  # stops at the threshold
        assert (found / (distance * factor) - 1).abs().max() < 0.05
        assert distortion(photos, attacked.images, UNIT_RANGE).max() < 20


def attacked_by(attack: str, objective: EmbeddingDistance, photos: Tensor) -> Attacked:
    if attack == "sign":
        return sign_attack(objective, photos, UNIT_RANGE, epsilon=16 / 255, step=4 / 255, iterations=20, stops=True)
    if attack == "ddn":
        return ddn(objective, photos, UNIT_RANGE, iterations=30)
    return carlini_wagner(
        objective, photos, UNIT_RANGE, learning_rate=0.01, search_steps=3, iterations=25, initial_constant=10.0
    )
