"""A run's configuration from YAML and dotted overrides; the types decide, and a wrong key is told its right name."""

import difflib
import json
import math
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from facegm.errors import UsageError
from facegm.identity import dotted

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Root = TypeVar("Root")
"""A dataclass of sections: the configuration of one kind of run."""


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


def add_config_arguments(parser: ArgumentParser, root: type[Any]) -> None:
    """Add `--config` and an option `--section.key` for each key of a kind of run's configuration."""
    parser.add_argument("--config", action="config", help="YAML file, or the name of a shipped one")
    parser.add_class_arguments(root, sub_configs=False)


def parse_config(path: Path, root: type[Root], overrides: Sequence[str] = ()) -> Root:
    """Read a configuration file and apply dotted overrides such as `--train.epochs=3`.

    Args:
        path: the YAML file.
        root: the kind of run.
        overrides: command-line arguments.

    Raises:
        UsageError: an unknown key, with the nearest valid one, a value of a wrong type or out of range; the key and,
            where it stands in it, the file are named.
    """
    return _parse(_read(path, root), root, overrides, str(path))


def config_of(content: Mapping[str, Any], root: type[Root], source: str) -> Root:
    """The configuration that a run has written down, by this version's keys and defaults.

    Args:
        content: its sections, as plain values of JSON, which has no infinity: it is the text `inf`.
        root: the kind of run.
        source: where it stands, for messages.

    Raises:
        UsageError: as `parse_config` does.
    """
    return _parse(_with_infinity(content, root), root, (), source)


def _with_infinity(content: Mapping[str, Any], section: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(section)
    found: dict[str, Any] = {}
    for key, value in content.items():
        hint = hints.get(key)
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
            found[key] = _with_infinity(value, hint)
        else:
            found[key] = math.inf if hint is float and value == "inf" else value
    return found


def _parse(content: dict[str, Any], root: type[Root], overrides: Sequence[str], source: str) -> Root:
    _check_keys((key for key, _ in dotted(content)), root, f"{source}: ")
    _check_keys((option[2:].partition("=")[0] for option in overrides if option.startswith("--")), root, "--")
    try:
        with NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.dump(content, file, _Dumper)
            file.flush()
            parser = _parser(root)  # type: ignore[arg-type]  # a type is hashable, which mypy does not see
            values = parser.parse_args(["--config", file.name, *_names_quoted(overrides, root)])
    except ArgumentError as error:
        raise UsageError(f"{source} or an option: {error}") from error
    config: Root = _build(root, {name: _plain(values[name]) for name in get_type_hints(root)})
    return config


@cache
def _parser(root: type[Any]) -> ArgumentParser:
    """Takes as long to make as to parse with."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_config_arguments(parser, root)
    return parser


def task_of(path: Path) -> str | None:
    """What a configuration file says under `task`; None where it says nothing."""
    return written_in(path).get("task")


def written_in(path: Path) -> Mapping[str, Any]:
    """The values of a configuration file by their dotted keys, right or wrong; none where it cannot be read."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError):
        return {}  # what is wrong with it is said when it is parsed
    return dict(dotted(content)) if isinstance(content, _Mapping) else {}


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


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


def _read(path: Path, root: type[Any]) -> dict[str, Any]:
    """A file's content, without what is empty, and with names as they are written, even those of digits."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, _Mapping):
        sections = ", ".join(get_type_hints(root))
        raise UsageError(f"{path}: expected sections {sections}, found {type(content).__name__}")
    return _as_meant(content, root)


def _as_meant(content: "_Mapping", section: type[Any]) -> dict[str, Any]:
    """Keys without a value have their defaults; names, such as paths and identities, are as they are written."""
    hints = get_type_hints(section)
    found: dict[str, Any] = {}
    for key, value in content.items():
        hint = hints.get(key)
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, _Mapping):
            found[key] = _as_meant(value, hint)
        elif hint is None or value is not None:
            is_name = hint in (Path, Path | None) or (hint == list[str] and isinstance(value, list))
            found[key] = content.written.get(key, value) if is_name else value
    return found


def _names_quoted(overrides: Sequence[str], root: type[Any]) -> list[str]:
    """Options of which the value is a list of names, or with += one more, with names of digits as names."""
    names, quoted = {key for key, hint in _valid_keys(root) if hint == list[str]}, []
    key_before = ""
    for option in overrides:
        key, equals, value = (key_before, " ", option) if key_before else option.partition("=")
        if key.startswith("--") and key[2:].rstrip("+") in names and equals:
            try:
                written = yaml.load(value, yaml.BaseLoader)
            except yaml.YAMLError as error:
                raise UsageError(f"{key}: {value}, must be a list such as [0100123, 7201]") from error
            if key.endswith("+") and isinstance(written, str):
                written = [written]
            value = json.dumps(written)
        quoted.append(value if key_before else f"{key}{equals}{value}")
        key_before = key if not equals and key[2:].rstrip("+") in names else ""
    return quoted


class _Mapping(dict[Any, Any]):
    """A mapping of a YAML file, and how those of its values that are scalars, or lists of such, are written."""

    written: dict[Any, Any]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which the last would win without a word."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[_Mapping]:
    found = _Mapping()
    yield found  # before its content is there, as PyYAML wants it for content that refers to itself
    given = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    found |= loader.construct_mapping(node)
    keys = [loader.construct_object(key, deep=True) for key in given]
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", given[number].start_mark)
    found.written = {
        loader.construct_object(key, deep=True): _as_written(value)
        for key, value in node.value
        if not isinstance(value, yaml.MappingNode)
    }


def _as_written(node: yaml.Node) -> Any:
    return _Name(node.value) if isinstance(node, yaml.ScalarNode) else [_as_written(item) for item in node.value]


class _Name(str):
    """Text that nothing may take for a number."""


class _Dumper(yaml.SafeDumper):
    """Quotes names."""


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
_Dumper.add_representer(_Name, lambda dumper, name: dumper.represent_scalar("tag:yaml.org,2002:str", name, style='"'))


def _valid_keys(section: type[Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, hint in get_type_hints(section).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _valid_keys(hint, f"{path}{key}.")
        else:
            yield f"{path}{key}", hint


def _check_keys(keys: Iterator[str], root: type[Any], prefix: str) -> None:
    valid = [key for key, _ in _valid_keys(root)]
    for key in keys:
        if key.rstrip("+") not in valid and key not in ("help", "print_config"):
            is_section = any(one.startswith(f"{key}.") for one in valid)
            trouble = "a section, which takes no value" if is_section else "no such configuration key"
            raise UsageError(f"{prefix}{key}: {trouble}; did you mean {_nearest(key, valid)}?")


def _nearest(key: str, valid: list[str]) -> str:
    """The key that was probably meant: one that is written short, such as lr, or else the most alike."""
    section, _, name = key.rpartition(".")
    for one in sorted(valid, key=lambda one: not one.startswith(f"{section}.")):
        words = one.rpartition(".")[2].split("_")
        if len(words) > 1 and name == "".join(word[0] for word in words):
            return one
    return difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
