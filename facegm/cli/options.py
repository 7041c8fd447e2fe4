"""Options that several commands share."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable

from facegm.data.machine import default_workers


def add_workers(options: ArgumentParser) -> None:
    """Add `--workers` to a command that aligns."""
    options.add_argument(
        "--workers",
        type=whole_number(minimum=1),
        help="worker processes (default: as many as this machine has cores and memory for, "
        f"{default_workers()}; on GPUs a few each)",
    )


def whole_number(*, minimum: int) -> Callable[[str], int]:
    """A parser's type for whole numbers from `minimum` on."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < minimum:
            raise ArgumentTypeError(f"{text}, must be a whole number, at least {minimum}")
        return int(text)

    return parse
