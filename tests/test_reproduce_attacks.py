"""Protects tables of attacks: whatever is killed they end alike, and their figures are those of plain loops."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from attack_grids import (
    BATCH,
    SLOWLY,
    TEST,
    TRAINING,
    begin,
    DEPTHS,
    digits,
    write_digits,
    write_networks,
)
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from facegm.classification.classifier import ImageClassifier, load_classifier
from facegm.reproduce.cells import RESULT_FILE
from facegm.reproduce.reproduction import Options, Reproduction

FILTERS = ["MNIST", "seed 0", "BIM"]
TABLE7 = Options(name="table7", config=Path("small.yaml"), filters=FILTERS, images=len(TEST))
ARGUMENTS = [f"--images={len(TEST)}", *(f"--filter={text}" for text in FILTERS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, trained networks in `networks`, and in `whole` what an undisturbed command makes of them."""
    folder = tmp_path_factory.mktemp("attacks")
    write_digits(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facegm.models.image_network.CIFAR_DEPTHS", DEPTHS)
        patch.chdir(folder)
        write_networks(Options(**{**vars(TABLE7), "output": Path("networks")}), but="softmax")
        shutil.copytree("networks", "whole")
        command = begin(folder, "table7", "--output=whole", "--jobs=2", *ARGUMENTS)
        assert command.wait(300) == 0, command.output
        yield folder


def test_try(folder: Path) -> None:
    print((folder / "output.txt").read_text())
    print((folder / "whole").iterdir())
