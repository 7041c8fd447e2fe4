"""The parts of a step: precision, weight decay, schedules and learning rates, without a run."""

import pytest
import torch
from torch import nn

from facegm.losses.config import LossConfig
from facegm.losses.gm_module import GMLossConfig
from facegm.losses.schedule import linear_warmup
from facegm.models.face_resnet import FaceResNetConfig
from facegm.training.config import OptimizerConfig
from facegm.training.distributed import autocast_dtype
from facegm.training.face_task import FaceTask
from facegm.training.optimization import set_learning_rates
from facegm.training.schedule import step_decay


def test_precision_is_bfloat16_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("float32", cpu) is None
    assert autocast_dtype("bfloat16", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert autocast_dtype("auto", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert autocast_dtype("auto", cpu) is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert autocast_dtype("auto", cpu) is None


def test_decay_is_for_weights_alone() -> None:
    loss = LossConfig(gm=GMLossConfig(means_learning_rate_factor=5.0, means_weight_decay=0.25))
    task = FaceTask(FaceResNetConfig(width=0.1, embedding_dim=16), loss, input_size=48, classes=3)
    decay, factor = {}, {}
    for group in task.parameter_groups(OptimizerConfig(weight_decay=0.5)):
        for parameter in group["params"]:
            decay[parameter], factor[parameter] = group["weight_decay"], group["factor"]
    assert set(decay) == set(task.parameters())
    for module in task.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            expected = 0.25 if name == "means" else 0.5 if is_weight else 0.0
            assert decay[parameter] == expected
            assert factor[parameter] == (5.0 if name == "means" else 1.0)


def test_schedules() -> None:
    assert [linear_warmup(p, start=0.1, fraction=0.5) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.1, 0.55, 1, 1]
    )
    assert linear_warmup(0.0, start=0.1, fraction=0.0) == 1
    rates = [step_decay(p, [0.5, 0.7, 0.8]) for p in (0, 0.49, 0.5, 0.7, 0.99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001])


def test_learning_rates_of_the_groups() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "factor": factor} for p, factor in zip(parameters, (1.0, 5.0), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    rate = set_learning_rates(optimizer, OptimizerConfig(learning_rate=0.2, milestones=[0.5]), progress=0.6)
    assert rate == pytest.approx(0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.1])
