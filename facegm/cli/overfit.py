"""`facegm overfit`: whether a configuration can learn one batch by heart."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from facegm.checkup.overfit import overfit
from facegm.cli.run_options import read_run_config
from facegm.config import add_config_arguments
from facegm.faces.config import FaceRunConfig


def parser() -> ArgumentParser:
    """The options of the command."""
    options = ArgumentParser(
        prog="facegm overfit",
        description="Train a configuration on one batch of 64 faces, without augmentation, until it makes no error on "
        "them; where it cannot, say what was seen and what may help. A minute's check of network, loss and optimiser.",
        allow_abbrev=False,
    )
    add_config_arguments(options, FaceRunConfig)
    return options


def run(arguments: Sequence[str]) -> None:
    """Train on the batch, a line for each check."""
    for seen in overfit(read_run_config(arguments, parser)):
        print(
            f"step {seen.step:>3}  loss {seen.loss:8.4f}  error {seen.error:6.1%}  "
            f"gradient {seen.gradient_norm:9.3g}  lr {seen.learning_rate:8.2g}",
            flush=True,
        )
    print(f"zero error after {seen.step} steps: network, loss and optimiser work")
