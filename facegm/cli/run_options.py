"""Options of the commands that take a run's configuration."""

import argparse
from collections.abc import Callable, Mapping, Sequence

from jsonargparse import ArgumentParser

from facegm.config import find_config, parse_config
from facegm.errors import UsageError
from facegm.faces.config import FaceRunConfig


def split_options(
    arguments: Sequence[str], parser: Callable[[], ArgumentParser], own: Mapping[str, str | bool | None]
) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the dotted overrides of a configuration that are left.

    Args:
        arguments: those of the command line.
        parser: the command's options, whose help is shown where it is asked for.
        own: the command's own options, such as `--config`, and their defaults; one of False is a switch.

    Raises:
        UsageError: an option lacks its value.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in own.items():
        if default is False:
            options.add_argument(name, action="store_true")
        else:
            options.add_argument(name, default=default)
    try:
        chosen, overrides = options.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    if "-h" in overrides or "--help" in overrides:
        parser().parse_args(["--help"])
    return chosen, overrides


def read_run_config(
    arguments: Sequence[str], parser: Callable[[], ArgumentParser], default: str | None = None
) -> FaceRunConfig:
    """The configuration that `--config` and dotted overrides ask for.

    Args:
        arguments: those of the command line.
        parser: the command's options, whose help is shown where it is asked for.
        default: the configuration where none is named; None if one must be.

    Raises:
        UsageError: none is named, there is no such file, or a key or value is wrong.
    """
    chosen, overrides = split_options(arguments, parser, {"--config": default})
    if chosen.config is None:
        raise UsageError("give --config CONFIG: a file, or the name of a shipped configuration")
    return parse_config(find_config(chosen.config), FaceRunConfig, overrides)
