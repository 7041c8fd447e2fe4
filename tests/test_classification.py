"""The losses that share an engine, by every implementation, against loops over samples and classes in float64."""

from collections.abc import Iterator

import pytest
import torch
from naive_losses import (
    CLASSIFYING,
    Case,
    gradients_of,
    in_precision,
    make_case,
    naive_total,
    relative_error,
    terms_of,
)
from torch import Tensor

from facegm.losses import engine
from facegm.losses.engine import Implementation
from facegm.losses.negatives import Negatives, draw_negatives
from facegm.losses.shard import Shard

by_each = pytest.mark.parametrize("by", ["dense", "chunked"])
of_each = pytest.mark.parametrize("name", CLASSIFYING)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of 3 classes (dense: 12), so that small cases have several, and a last one that is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "block_size", lambda _: 3)
        yield


def drawn(case: Case, share: float = 0.4) -> tuple[Negatives, Tensor]:
    """Some of the classes, and how often each counts."""
    classes = len(case.vectors)
    negatives = draw_negatives(case.labels, Shard.whole(classes), share, torch.Generator().manual_seed(0))
    counts = torch.zeros(classes, dtype=torch.float64)
    return negatives, counts.index_copy(0, negatives.classes, negatives.log_weights.exp())


@by_each
@of_each
@pytest.mark.parametrize("is_sampled", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 1, 4), (5, 31, 4)])
def test_values_and_gradients_equal_a_naive_loop(
    name: str, by: Implementation, is_sampled: bool, shape: tuple[int, int, int]
) -> None:
    """Protects the term, the margin's slope and what each kind of logits does to features, vectors and bias."""
    case = make_case(*shape, shift=1.0, of_vectors=1.0, seed=sum(shape))
    negatives, counts = drawn(case) if is_sampled else (None, None)
    found = terms_of(name, case, implementation=by, negatives=negatives)
    expected, accuracy = naive_total(name, case, counts)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    assert found.accuracy.item() == pytest.approx(accuracy)
    for a, b in zip(gradients_of(found.total, case), gradients_of(expected, case), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@by_each
@of_each
def test_single_precision_survives_a_common_offset(name: str, by: Implementation) -> None:
    """Protects from products that cancel: those of distances, whose means lie where the features do."""
    case = make_case(8, 40, 24, shift=3.0, of_vectors=3.0 if name.startswith("gm") else 0.0)
    single = in_precision(case, torch.float32)
    found, (expected, _) = terms_of(name, single, implementation=by).total, naive_total(name, case)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(gradients_of(found, single), gradients_of(expected, case), strict=True):
        assert relative_error(a, b) < 1e-5


@by_each
@of_each
def test_gradcheck(name: str, by: Implementation) -> None:
    case = make_case(3, 7, 2)

    def total(x: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = terms_of(name, Case(x, vectors, bias, *case[3:]), implementation=by).total
        return found + 0 * bias.sum()  # which not every loss has

    assert torch.autograd.gradcheck(total, case[:3])


@by_each
@of_each
def test_backward_can_be_repeated(name: str, by: Implementation) -> None:
    """The first backward lets go of the buffer that the forward pass kept; the second has to do without."""
    case = make_case(6, 20, 4)
    total = terms_of(name, case, implementation=by).total
    first, second = gradients_of(total, case, retain_graph=True), gradients_of(total, case)
    assert all(map(torch.equal, first, second))


@by_each
@pytest.mark.parametrize("name", ["softmax", "cosface"])
def test_nothing_overflows_and_no_precision_is_lost_where_samples_are_sure(name: str, by: Implementation) -> None:
    """Of logits in the thousands; and of a posterior so near 1 that single precision would round the loss to 0."""
    vectors, bias = torch.eye(6, dtype=torch.float64) * 25, torch.zeros(6, dtype=torch.float64, requires_grad=True)
    case = make_case(6, 6, 6)._replace(labels=torch.arange(6))
    for length in (1.0, 400.0):
        x = torch.eye(6, dtype=torch.float64) * length
        exact = case._replace(x=x.requires_grad_(), vectors=vectors.requires_grad_(), bias=bias)
        single = in_precision(exact, torch.float32)
        found, (expected, _) = terms_of(name, single, implementation=by).total, naive_total(name, exact)
        assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-30)
        if name == "softmax" and length == 1:
            assert 0 < expected < 1e-10
            assert relative_error(gradients_of(found, single)[0], gradients_of(expected, exact)[0]) < 1e-4
        assert all(gradient.isfinite().all() for gradient in gradients_of(terms_of(name, single).total, single))


@by_each
@pytest.mark.parametrize("name", ["gm", "softmax", "arcface"])
def test_a_factor_of_either_sign_reaches_all_gradients(name: str, by: Implementation) -> None:
    case = make_case(5, 14, 3)
    plain = gradients_of(terms_of(name, case, implementation=by).total, case)
    scaled = gradients_of(terms_of(name, case, implementation=by).total * -3, case)
    for a, b in zip(scaled, plain, strict=True):
        torch.testing.assert_close(a, -3 * b)


@of_each
def test_a_label_that_is_no_class_is_refused(name: str) -> None:
    case = make_case(2, 3, 4)._replace(labels=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"labels must be from 0 to 2, found 1 to 3"):
        terms_of(name, case)


def test_a_class_vector_of_length_zero_has_a_finite_gradient() -> None:
    case = make_case(4, 5, 3)
    case.vectors.data[2] = 0
    for by in ("dense", "chunked"):
        total = terms_of("arcface", case, implementation=by).total
        assert total.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients_of(total, case))
