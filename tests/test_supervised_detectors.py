"""Detectors that are shown an attack, and what they alone look at: intrinsic dimensions and uncertainty by dropout."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import observed
from torch import Tensor, nn

from facegm.adversarial import uncertainty
from facegm.adversarial.detectors.k_density import KDensity
from facegm.adversarial.detectors.kd_bu import KDBU
from facegm.adversarial.detectors.lid import LID
from facegm.adversarial.detectors.regression import RegressionDetector
from facegm.adversarial.intrinsic_dimension import HIGHEST, local_intrinsic_dimension
from facegm.adversarial.observations import Observations, observe
from facegm.adversarial.subject import Subject
from facegm.adversarial.uncertainty import dropout_uncertainty
from facegm.errors import FacegmError, UsageError


def naive_lid(point: list[float], reference: list[list[float]], k: int) -> float:
    distances = sorted(math.dist(point, other) for other in reference)[1 : k + 1]
    return -k / math.fsum(math.log(r / distances[-1]) for r in distances)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dim=st.integers(1, 20), size=st.integers(6, 30), shift=st.sampled_from([0.0, 1e3]))
def test_intrinsic_dimension_is_what_is_written_out(seed: int, dim: int, size: int, shift: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    reference = torch.rand(size, dim, generator=rng) + shift
    points = torch.cat([torch.rand(3, dim, generator=rng) + shift, reference[:2]])  # the last two lie in the reference
    found = local_intrinsic_dimension(points, reference, 5)
    assert found.dtype == torch.float64
    for point, estimate in zip(points.tolist(), found.tolist(), strict=True):
        distances = sorted(math.dist(point, other) for other in reference.tolist())[1:6]
        if distances[0] > 1e-4 * distances[-1] and distances[0] < 0.999 * distances[-1]:
            assert estimate == pytest.approx(naive_lid(point, reference.tolist(), 5), rel=1e-6)
        assert 0 < estimate <= HIGHEST


def test_intrinsic_dimension_knows_a_line_from_a_cube() -> None:
    rng = torch.Generator().manual_seed(0)
    line = torch.rand(2_000, 1, generator=rng) * torch.ones(1, 10)
    cube = torch.rand(20_000, 3, generator=rng)
    assert local_intrinsic_dimension(line[:500], line).mean().item() == pytest.approx(1, rel=0.2)
    assert local_intrinsic_dimension(cube[:500], cube).mean().item() == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_points_that_coincide_have_a_finite_dimension(value: float) -> None:
    """Of a layer that is dead in all images there is nothing to learn: the same number for each."""
    alike = torch.full((30, 7), value)
    assert local_intrinsic_dimension(alike[:4], alike, 5).tolist() == [HIGHEST] * 4
    twice = torch.rand(30, 7, generator=torch.Generator().manual_seed(0))
    twice[:4] = twice[0]  # three others at a distance of 0
    found = local_intrinsic_dimension(twice[:1], twice, 5)
    assert 0 < found.item() < 1
    ring = torch.eye(30)  # all distances alike
    assert local_intrinsic_dimension(torch.zeros(1, 30), ring, 5).item() == HIGHEST


def test_a_reference_has_more_images_than_neighbours() -> None:
    with pytest.raises(FacegmError, match=r"^reference: 20 images, must be 21 at least, such as 100"):
        local_intrinsic_dimension(torch.rand(1, 2), torch.rand(20, 2))
    assert local_intrinsic_dimension(torch.rand(1, 2), torch.rand(21, 2)).shape == (1,)


class SmallNetwork(nn.Module):
    """Of a convolution whose output is then changed in place, and a PReLU that is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.relu, self.prelu = nn.ReLU(inplace=True), nn.PReLU()
        self.last = nn.Linear(2, 3)

    def features(self, images: Tensor) -> Tensor:
        x = self.relu(self.first(images))
        x = self.prelu(self.second(x))
        features: Tensor = self.prelu(x.mean((2, 3)) - 0.1)
        return features

    def layers_by_hand(self, images: Tensor) -> list[Tensor]:
        first = self.first(images)
        relu = first.clamp(min=0)
        second = self.second(relu)
        slope = self.prelu.weight
        prelu = torch.where(second > 0, second, slope * second)
        means = prelu.mean((2, 3)) - 0.1
        features = torch.where(means > 0, means, slope * means)
        return [images, first, relu, second, prelu, features, features]


def subject() -> Subject:
    torch.manual_seed(0)
    network = SmallNetwork().eval()
    return Subject(module=network, features=network.features, logits=network.last)


@pytest.mark.parametrize("batch_size", [4, 500])
def test_every_layer_is_looked_at_among_the_reference(batch_size: int) -> None:
    it, rng = subject(), torch.Generator().manual_seed(1)
    images, reference = torch.rand(9, 1, 7, 7, generator=rng), torch.rand(30, 1, 7, 7, generator=rng)
    found = observe(it, images, reference=reference, batch_size=batch_size)
    plain = observe(it, images)
    torch.testing.assert_close(found.features, plain.features)
    torch.testing.assert_close(found.logits, plain.logits)
    assert plain.intrinsic_dimensions is None
    assert found.intrinsic_dimensions is not None
    assert isinstance(it.module, SmallNetwork)
    with torch.no_grad():
        layers = list(zip(it.module.layers_by_hand(images), it.module.layers_by_hand(reference), strict=True))
    assert found.intrinsic_dimensions.shape == (9, len(layers))
    for column, (points, others) in enumerate(layers):
        rows = others.flatten(1).tolist()
        for i, point in enumerate(points.flatten(1).tolist()):
            expected = naive_lid(point, rows, 20)
            assert found.intrinsic_dimensions[i, column].item() == pytest.approx(expected, rel=1e-4)
    assert not any(module._forward_hooks for module in it.module.modules()), "the network is left as it was"


def test_hooks_are_gone_after_an_error() -> None:
    it = subject()
    with pytest.raises(FacegmError, match="reference: 3 images"):
        observe(it, torch.rand(2, 1, 7, 7), reference=torch.rand(3, 1, 7, 7))
    with pytest.raises(RuntimeError):
        observe(it, torch.rand(2, 2, 7, 7), reference=torch.rand(30, 2, 7, 7))
    assert not any(module._forward_hooks for module in it.module.modules())


def test_uncertainty_is_the_variance_of_the_posterior_under_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all masks written out: with 2 numbers a feature has 4 of the same chance."""
    it = subject()
    features = torch.tensor([[0.5, -2.0], [0.0, 0.0], [3.0, 0.1]])
    with torch.no_grad():
        masks = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
        posteriors = torch.stack([it.logits(features * mask).double().softmax(dim=1) for mask in masks])
    expected = ((posteriors - posteriors.mean(dim=0)) ** 2).mean(dim=0).mean(dim=1)
    monkeypatch.setattr(uncertainty, "PASSES", 4_000)
    found = dropout_uncertainty(it, features)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0.06)
    assert found[1] == 0


def test_uncertainty_is_that_of_so_many_drawn_passes() -> None:
    """Also protects that it is the same however images come in batches."""
    it, images = subject(), torch.rand(7, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    found = observe(it, images, with_uncertainty=True, batch_size=3)
    generator = torch.Generator().manual_seed(0)
    passes = []
    for _ in range(50):
        is_kept = torch.rand(7, 2, generator=generator) >= 0.5
        with torch.no_grad():
            passes.append(it.logits(found.features * is_kept * 2).double().softmax(dim=1).numpy())
    assert found.uncertainty is not None
    np.testing.assert_allclose(found.uncertainty.numpy(), np.var(passes, axis=0).mean(axis=1), rtol=1e-9)
    assert observe(it, images).uncertainty is None


def states(*, seed: int = 0) -> dict[str, Observations]:
    return {
        "clean": observed(40, seed=seed),
        "noisy": observed(40, seed=seed + 1),
        "adversarial": observed(40, seed=seed + 2, spread=2.0),
    }


def detectors() -> list[RegressionDetector]:
    return [LID(), KDBU(KDensity(0.8).fit(observed(60, seed=9)))]


def columns_of(detector: RegressionDetector, seen: Observations) -> np.ndarray:
    if isinstance(detector, LID):
        assert seen.intrinsic_dimensions is not None
        return seen.intrinsic_dimensions.numpy()
    assert isinstance(detector, KDBU)
    assert seen.uncertainty is not None
    return np.stack([detector.density.score_samples(seen), seen.uncertainty.numpy()], axis=1)


@pytest.mark.parametrize("detector", detectors(), ids=lambda one: one.name)
def test_scores_are_log_odds_of_scaled_columns(detector: RegressionDetector) -> None:
    """The optimum of the regularised likelihood, for one of scikit-learn's ten strengths, by its gradient."""
    shown, seen = states(), observed(9, seed=7)
    detector.fit(shown["clean"], noisy=shown["noisy"], adversarial=shown["adversarial"])
    columns = np.concatenate([columns_of(detector, one) for one in shown.values()])
    if isinstance(detector, LID):
        shift, scale = columns.min(axis=0), columns.max(axis=0) - columns.min(axis=0)
        assert scale[2] == 0, "a layer that says nothing"
        scale[2] = 1
    else:
        shift, scale = columns.mean(axis=0), columns.std(axis=0)
    weights, bias = detector.weights_.numpy(), detector.bias_.item()
    z = (columns - shift) / scale
    is_adversarial = np.repeat([0, 0, 1], 40)
    slopes = 1 / (1 + np.exp(-(z @ weights + bias))) - is_adversarial
    assert abs(slopes.sum()) < 0.05, "the bias is not regularised"
    gradient = slopes @ z
    strengths = [np.abs(gradient + weights / c).max() for c in np.logspace(-4, 4, 10)]
    assert min(strengths) < 0.05
    found = detector.score_samples(seen)
    np.testing.assert_allclose(found, -((columns_of(detector, seen) - shift) / scale @ weights + bias), rtol=1e-9)


@pytest.mark.parametrize("detector", detectors(), ids=lambda one: one.name)
def test_clean_and_noisy_images_score_above_adversarial_ones(detector: RegressionDetector) -> None:
    shown, others = states(), states()
    detector.fit(shown["clean"], noisy=shown["noisy"], adversarial=shown["adversarial"])
    medians = {name: np.median(detector.score_samples(one)) for name, one in others.items()}
    assert medians["adversarial"] < min(medians["clean"], medians["noisy"])


MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "lid": ({"intrinsic_dimensions": None}, r"^lid: no intrinsic dimensions were observed; give `observe` a reference"),
    "kd-bu": ({"uncertainty": None}, r"^kd-bu: no uncertainty was observed; call `observe` with with_uncertainty"),
}


@pytest.mark.parametrize("detector", detectors(), ids=lambda one: one.name)
def test_what_cannot_be_fitted_to_is_refused(detector: RegressionDetector) -> None:
    shown = states()
    with pytest.raises(UsageError, match=rf"^{detector.name}: the detector is not fitted"):
        detector.score_samples(shown["clean"])
    change, message = MISSING[detector.name]
    few = observed(4)
    broken = replace(few, features=few.features * torch.nan)
    for state in ("noisy", "adversarial"):
        with pytest.raises(FacegmError, match=message):
            detector.fit(**shown | {state: replace(shown[state], **change)})
        with pytest.raises(FacegmError, match=r"^features: those of image 0 are not finite"):
            detector.fit(**shown | {state: broken})
    with pytest.raises(
        FacegmError, match=rf"^{detector.name}: 80 normal images and 4 adversarial ones; needs 5 of each"
    ):
        detector.fit(**shown | {"adversarial": few})
    detector.fit(**shown)
    with pytest.raises(FacegmError, match=message):
        detector.score_samples(replace(shown["clean"], **change))


def test_another_network_s_layers_are_refused() -> None:
    detector, seen = LID().fit(**states()), observed(5)
    assert seen.intrinsic_dimensions is not None
    with pytest.raises(FacegmError, match=r"^lid: 3 numbers an image, and 4 where it was fitted"):
        detector.score_samples(replace(seen, intrinsic_dimensions=seen.intrinsic_dimensions[:, :3]))


def test_kd_bu_needs_a_fitted_density() -> None:
    with pytest.raises(UsageError, match=r"^k-density: the detector is not fitted"):
        KDBU(KDensity()).fit(**states())


def test_kd_bu_is_brought_to_a_device_with_its_density() -> None:
    detector = KDBU(KDensity(1.0).fit(observed(30))).fit(**states()).to(torch.device("meta"))
    assert {tensor.device.type for tensor in detector.state().values()} == {"meta"}
    assert len(detector.state()) == 7
