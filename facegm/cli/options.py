"""Options that several commands share."""

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable


def add_workers(options: ArgumentParser) -> None:
    """Add `--workers` to a command that aligns."""
    options.add_argument(
        "--workers",
        type=whole_number(minimum=1),
        default=os.cpu_count() or 1,
        help="worker processes (default: one a processor, %(default)s)",
    )


def whole_number(*, minimum: int) -> Callable[[str], int]:
    """A parser's type for whole numbers from `minimum` on."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < minimum:
            raise ArgumentTypeError(f"{text}, must be a whole number, at least {minimum}")
        return int(text)

    return parse
