"""Options of the commands that take a run's configuration."""

import argparse
from collections.abc import Callable, Mapping, Sequence

from jsonargparse import ArgumentParser

from facegm.config import find_config, parse_config, task_of
from facegm.errors import UsageError
from facegm.faces.config import FaceRunConfig


def split_options(
    arguments: Sequence[str], own: Mapping[str, str | bool | None]
) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the dotted overrides of a configuration that are left.

    Args:
        arguments: those of the command line.
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
        return options.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error


def show_help_if_asked(overrides: Sequence[str], parser: Callable[[], ArgumentParser]) -> None:
    """Show a command's help, and end it, where the options that are left ask for it."""
    if "-h" in overrides or "--help" in overrides:
        parser().parse_args(["--help"])


def read_run_config(
    arguments: Sequence[str], parser: Callable[[], ArgumentParser], default: str | None = None
) -> FaceRunConfig:
    """The configuration of a face network's run that `--config` and dotted overrides ask for.

    Args:
        arguments: those of the command line.
        parser: the command's options, whose help is shown where it is asked for.
        default: the configuration where none is named; None if one must be.

    Raises:
        UsageError: none is named, there is no such file, it is of another kind of run, or a key or value is wrong.
    """
    chosen, overrides = split_options(arguments, {"--config": default})
    show_help_if_asked(overrides, parser)
    if chosen.config is None:
        raise UsageError("give --config CONFIG: a file, or the name of a shipped configuration")
    path = find_config(chosen.config)
    if task_of(path) is not None:
        raise UsageError(f"{path}: of a classifier; this command looks at runs of face networks")
    return parse_config(path, FaceRunConfig, overrides)
