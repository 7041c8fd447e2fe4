"""Sampled negative classes: what is drawn, what estimators promise and what they do not, and whose gradient it is."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_losses import CLASSIFYING, make_case, terms_of
from torch import Tensor

from facegm.losses.config import LossConfig, LossName, build_loss
from facegm.losses.negatives import draw_negatives
from facegm.losses.shard import Shard
from facegm.schedule import Progress

DRAWS = 500
MODULES: tuple[LossName, ...] = ("gm", "softmax", "center", "cosface", "arcface")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_batchs_classes_are_always_drawn_and_so_many_others() -> None:
    labels = torch.tensor([5, 9_000, 5])
    drawn = draw_negatives(labels, Shard.whole(10_000), 0.1, generator())
    assert {5, 9_000} <= set(drawn.classes.tolist())
    assert torch.equal(drawn.classes, drawn.classes.unique(sorted=True))
    assert len(drawn.classes) == 1_000
    own = (drawn.classes == 5) | (drawn.classes == 9_000)
    assert torch.equal(drawn.log_weights[own], torch.zeros(2, dtype=torch.float64))
    assert drawn.log_weights[~own].unique().item() == pytest.approx(math.log(9_998 / 998), abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_draw_has_its_fixed_number_and_counts_for_all_classes(data: st.DataObject) -> None:
    # Shards of a single class, batches of more samples than classes, labels that are all of one class or elsewhere.
    classes = data.draw(st.integers(1, 40))
    first = data.draw(st.integers(0, classes - 1))
    shard = Shard(first, data.draw(st.integers(first + 1, classes)), classes)
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=9))
    share, held = data.draw(st.floats(0.01, 1)), shard.last - shard.first
    drawn = draw_negatives(torch.tensor(labels), shard, share, generator(data.draw(st.integers(0, 99))))
    assert len(drawn.classes) == min(held, max(round(share * held), len(labels) + 1))
    assert drawn.classes.tolist() == sorted({*drawn.classes.tolist()})
    assert {*drawn.classes.tolist()} <= {*range(held)}
    own = {label - first for label in labels if first <= label < shard.last}
    assert own <= {*drawn.classes.tolist()}
    counts = drawn.log_weights.exp()
    assert counts.sum().item() == pytest.approx(held)
    assert all(count == 1 for k, count in zip(drawn.classes.tolist(), counts.tolist(), strict=True) if k in own)


def test_every_other_class_is_drawn_equally_often() -> None:
    labels, times = torch.tensor([3, 7]), torch.zeros(20)
    for seed in range(DRAWS):
        times[draw_negatives(labels, Shard.whole(20), 0.4, generator(seed)).classes] += 1
    assert (times[[3, 7]] == DRAWS).all()
    others = times[[k for k in range(20) if k not in (3, 7)]]
    expected, deviation = DRAWS * 6 / 18, math.sqrt(DRAWS * 6 / 18 * 12 / 18)
    assert ((others - expected).abs() < 4 * deviation).all()


@pytest.mark.parametrize("name", ["gm", "softmax", "cosface"])
def test_sums_are_estimated_without_bias_and_their_logarithm_from_below(name: str) -> None:
    """Of one sample, exp(loss) is affine in the sum of exponentials, and so without bias itself."""
    case = make_case(1, 40, 8)
    case = case._replace(vectors=0.5 * case.vectors.detach(), x=case.x.detach(), bias=case.bias.detach())
    exact = terms_of(name, case)
    shards = [draw_negatives(case.labels, Shard.whole(40), 0.3, generator(seed)) for seed in range(DRAWS)]
    draws = [terms_of(name, case, negatives=negatives) for negatives in shards]
    pairs = [(torch.stack([classification(t) for t in draws]), classification(exact))]
    assert pairs[0][0].mean() < pairs[0][1]
    pairs = [(found.exp(), expected.exp()) for found, expected in pairs]
    if name == "gm":
        pairs.append((torch.stack([t.likelihood for t in draws]), exact.likelihood))
    for found, expected in pairs:
        assert found.std() > 0
        assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(DRAWS)


def classification(terms: Any) -> Tensor:
    found: Tensor = terms.classification if hasattr(terms, "classification") else terms.total
    return found


@pytest.mark.parametrize("name", CLASSIFYING)
def test_the_gradient_is_sparse_in_the_drawn_rows(name: str) -> None:
    """Protects the time of a step, which may not depend on the classes that are not looked at."""
    case = make_case(3, 50, 4)
    negatives = draw_negatives(case.labels, Shard.whole(50), 0.2, generator())
    learned = [case.vectors, case.bias] if name in ("softmax", "center") else [case.vectors]
    for gradient in torch.autograd.grad(terms_of(name, case, negatives=negatives).total, learned):
        assert gradient.is_sparse
        assert gradient.is_coalesced()
        assert torch.equal(gradient.indices()[0], negatives.classes)
        assert len(gradient.values()) == 10


@pytest.mark.parametrize("name", MODULES)
def test_a_run_draws_by_its_seed_and_step(name: LossName) -> None:
    torch.manual_seed(7)
    config = LossConfig(name=name)
    config = replace(config, **{name: replace(config.chosen, negative_share=0.1)})
    loss = build_loss(config, 500, 8).eval()
    x, y = torch.randn(6, 8), torch.randint(500, (6,))
    first = [loss(x, y, Progress(step, 9)).total.item() for step in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    torch.manual_seed(7)
    exact = build_loss(LossConfig(name=name), 500, 8).eval()
    assert all(map(torch.equal, loss(x, y), exact(x, y))), "outside a run, all classes count"
