"""Commands of facegm read by the parsers of their own verbs, without being run."""

import contextlib
import functools
import importlib
import io
from argparse import ArgumentParser
from collections.abc import Sequence
from types import ModuleType

from facegm.classification.config import ImageRunConfig
from facegm.cli import VERBS, attack_faces
from facegm.cli.run_options import split_options
from facegm.config import find_config, parse_config, task_of
from facegm.errors import UsageError
from facegm.faces.config import FaceRunConfig


def module_of(verb: str) -> ModuleType:
    """The module of a verb.

    Raises:
        UsageError: there is no such verb.
    """
    if verb not in VERBS:
        raise UsageError(f"no such command: {verb}")
    return importlib.import_module(f"facegm.cli.{verb.replace('-', '_')}")


@functools.cache
def _parser(verb: str) -> ArgumentParser:
    parser: ArgumentParser = module_of(verb).parser()
    return parser


@functools.cache
def options_of(verb: str) -> set[str]:
    """All options that a verb has, for whichever kind of run."""
    parsers = [_parser(verb)]
    if verb == "attack":
        parsers.append(attack_faces.parser())
    elif verb == "train":
        parsers.append(module_of(verb).parser(ImageRunConfig))
    return {name for parser in parsers for action in parser._actions for name in action.option_strings}


def complaint(arguments: Sequence[str]) -> str | None:
    """What a verb says of the arguments of a command, which it does not run, if it would refuse them as wrong usage."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _parse(arguments)
    except UsageError as error:
        return str(error)
    except SystemExit:
        return said.getvalue().splitlines()[-1]
    return None


def _parse(arguments: Sequence[str]) -> None:
    if arguments[0] in ("--help", "--version"):
        return
    verb, rest = arguments[0], list(arguments[1:])
    parser = _parser(verb)
    if "--print_config" in options_of(verb):
        _parse_configured(parser, rest)
    else:
        (attack_faces.parser() if verb == "attack" and "--lfw" in rest else parser).parse_args(rest)


def _parse_configured(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Those of a command that takes a run's configuration, and any of its keys."""
    sections = {f"--{name}" for name in (*FaceRunConfig.__annotations__, "help", "print_config")}
    own: dict[str, str | bool | None] = {
        name: False if action.nargs == 0 else None
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and "." not in name and name not in sections
    }
    chosen, overrides = split_options(arguments, own)
    if chosen.config is None:
        if not getattr(chosen, "resume", None) or overrides:
            raise UsageError("no --config, and no run to go on with")
        return
    path = find_config(chosen.config)
    parse_config(path, ImageRunConfig if task_of(path) else FaceRunConfig, overrides)
