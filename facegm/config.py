"""A run's configuration from YAML and dotted overrides; the types decide, and a wrong key is told its right name."""

import difflib
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from facegm.errors import UsageError
from facegm.training.config import RunConfig

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def find_config(name: str) -> Path:
    """The configuration file of a path, or of the name of a shipped one.

    Raises:
        UsageError: there is no such file; the shipped ones are named.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    raise UsageError(f"{name}: no such configuration file; shipped ones: {', '.join(sorted(shipped))}")


def shipped_configs() -> dict[str, Path]:
    """The configuration files that come with the package, by name."""
    return {file.name: Path(str(file)) for file in files("facegm.configs").iterdir() if file.name.endswith(".yaml")}


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add `--config` and an option `--section.key` for each key of a run's configuration."""
    parser.add_argument("--config", action="config", help="YAML file, or the name of a shipped one")
    parser.add_class_arguments(RunConfig, sub_configs=False)


def parse_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply dotted overrides such as `--train.epochs=3`.

    Args:
        path: the YAML file.
        overrides: command-line arguments.

    Raises:
        UsageError: an unknown key, with the nearest valid one, a value of a wrong type or out of range; the key and,
            where it stands in it, the file are named.
    """
    _check_keys(_keys_of_file(path), f"{path}: ")
    _check_keys((option[2:].partition("=")[0] for option in overrides if option.startswith("--")), "--")
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_config_arguments(parser)
    try:
        values = parser.parse_args(["--config", str(path), *overrides])
    except ArgumentError as error:
        raise UsageError(f"{path} or an option: {error}") from error
    config: RunConfig = _build(RunConfig, {name: values[name].as_dict() for name in get_type_hints(RunConfig)})
    return config


def _build(section: type[Any], values: Mapping[str, Any], path: str = "") -> Any:
    hints = get_type_hints(section)
    parts = {
        key: _build(hints[key], value, f"{path}{key}.") if is_dataclass(hints[key]) else value
        for key, value in values.items()
    }
    try:
        return section(**parts)
    except ValueError as error:
        raise UsageError(f"{path}{error}") from error


def _keys_of_file(path: Path) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, Mapping):
        sections = ", ".join(get_type_hints(RunConfig))
        raise UsageError(f"{path}: expected sections {sections}, found {type(content).__name__}")
    return list(_dotted(content))


def _dotted(content: Mapping[Any, Any], path: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _valid_keys(section: type[Any] = RunConfig, path: str = "") -> Iterator[str]:
    for key, hint in get_type_hints(section).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _valid_keys(hint, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _check_keys(keys: Iterator[str] | list[str], prefix: str) -> None:
    valid = list(_valid_keys())
    for key in keys:
        if key.rstrip("+") not in valid and key not in ("help", "print_config"):
            nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            raise UsageError(f"{prefix}{key}: no such configuration key; did you mean {nearest}?")
