"""Protects attacked images: whatever ends the work they are the same, and what is damaged is noticed."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from facegm.adversarial.craft import Crafted
from facegm.adversarial.crafted import craft_in_batches
from facegm.adversarial.objectives import CrossEntropy
from facegm.adversarial.recipe import AttackRecipe
from facegm.adversarial.sign_attack import sign_attack
from facegm.adversarial.subject import UNIT_RANGE, Subject

RECIPE = AttackRecipe(loop="sign", targets="none", iterations=3, seed=5)
COUNT, BATCH = 25, 10


class Work:
    """25 images and a linear classifier of them; attacks each from a random point, and notes the batches' images."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.images, self.labels = torch.rand(COUNT, 1, 4, 4, generator=rng), torch.arange(COUNT) % 3
        module = nn.Linear(16, 3)
        with torch.no_grad():
            module.weight.copy_(torch.randn(3, 16, generator=rng))
            module.bias.zero_()
        self.subject = Subject(module=module.eval(), features=lambda images: images.flatten(1), logits=module)
        self.attacked: list[list[int]] = []
        self.dies_in = COUNT
        self.is_targeted = True

    def attack(self, images: Tensor, labels: Tensor, numbers: Tensor) -> Crafted:
        if len(self.attacked) == self.dies_in:
            raise InterruptedError
        self.attacked.append(numbers.tolist())
        objective = CrossEntropy(subject=self.subject, classes=labels, is_targeted=False)
        noise = torch.stack([torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(n)) for n in numbers.tolist()])
        found = sign_attack(objective, 0.9 * images + 0.1 * noise, UNIT_RANGE, epsilon=0.1, step=0.02, iterations=3)
        return Crafted(**vars(found), targets=(labels + 1) % 3 if self.is_targeted else None)

    def run(self, folder: Path, recipe: AttackRecipe = RECIPE, about: str = "") -> Crafted:
        self.attacked = []
        return craft_in_batches(
            folder,
            recipe,
            self.subject,
            self.images,
            self.labels,
            100 + torch.arange(COUNT),
            attack=self.attack,
            about=about,
            batch_size=BATCH,
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def whole(work: Work, tmp_path: Path) -> Path:
    work.run(tmp_path / "whole")
    return tmp_path / "whole"


def test_batches_are_put_together_in_order(work: Work, tmp_path: Path) -> None:
    attacked = work.run(tmp_path)
    assert work.attacked == [list(range(100, 110)), list(range(110, 120)), list(range(120, 125))]
    at_once = work.attack(work.images, work.labels, 100 + torch.arange(COUNT))
    assert torch.allclose(attacked.images, at_once.images)
    assert torch.equal(attacked.is_success, at_once.is_success)
    assert torch.equal(attacked.passes, at_once.passes)
    assert attacked.targets is not None
    assert torch.equal(attacked.targets, (work.labels + 1) % 3)
    assert 0 < attacked.is_success.sum() < COUNT
    with safe_open(tmp_path / "1.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("images"), attacked.images[10:20])


def test_there_may_be_no_targets(work: Work, tmp_path: Path) -> None:
    work.is_targeted = False
    assert work.run(tmp_path).targets is None
    assert work.run(tmp_path).targets is None


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_was_interrupted_goes_on_to_the_same_bytes(done: int, work: Work, whole: Path, tmp_path: Path) -> None:
    work.dies_in = done
    with pytest.raises(InterruptedError):
        work.run(tmp_path / "cut")
    assert sorted(contents(tmp_path / "cut")) == [f"{number}.safetensors" for number in range(done)]
    work.dies_in = COUNT
    again = work.run(tmp_path / "cut")
    assert len(work.attacked) == 3 - done
    assert contents(tmp_path / "cut") == contents(whole)
    assert torch.equal(again.images, work.run(whole).images)
    assert work.attacked == []


@pytest.mark.parametrize("place", [0.0, 0.03, 0.1, 0.3, 0.5, 0.9])
def test_a_changed_byte_is_noticed_and_costs_one_batch(
    place: float, work: Work, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, file = contents(whole), whole / "1.safetensors"
    content = bytearray(before[file.name])
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        work.run(whole)
    assert len(work.attacked) == 1
    assert contents(whole) == before
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"{file}: damaged" in message or f"{file}: made of other" in message
    assert message.endswith("these images are attacked anew")


@pytest.mark.parametrize("content", [b"", b"half of a file"])
def test_what_is_no_file_of_images_is_made_anew(
    content: bytes, work: Work, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(whole)
    (whole / "2.safetensors").write_bytes(content)
    work.run(whole)
    assert contents(whole) == before
    assert "2.safetensors: damaged" in caplog.text


def test_what_was_made_of_something_else_is_made_anew(
    work: Work, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One image, one label, one weight, a recipe, a detector: of the first three only the batches concerned."""

    def batches(**changes: object) -> int:
        work.run(whole, **changes)  # type: ignore[arg-type]
        return len(work.attacked)

    work.images[12, 0, 0, 0] += 0.25
    assert batches() == 1
    work.labels[24] = (work.labels[24] + 1) % 3
    assert batches() == 1
    with torch.no_grad():
        work.subject.module.weight[0, 0] += 0.5  # type: ignore[index,operator]
    assert batches() == 3
    assert batches(recipe=AttackRecipe(loop="sign", seed=6)) == 3
    assert batches(recipe=AttackRecipe(loop="sign", seed=6), about="a detector") == 3
    assert batches(recipe=AttackRecipe(loop="sign", seed=6), about="a detector") == 0
    assert caplog.text.count("made of other images, weights or settings") == 11
