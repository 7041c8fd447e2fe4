"""By what a checkpoint knows its run: the configuration as a dictionary, without the fields that change no result."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

FREE: Mapping[str, Any] = {"is_free": True}
"""Metadata of a dataclass's field that may change from one part of a run to the next, such as where its data lies:
`field(default=..., metadata=FREE)`."""


def identity_of(config: Any) -> dict[str, Any]:
    """All fields that are not `FREE` as plain values, by dotted key; sections are dataclasses too.

    A section with a method `sections_in_use` has a say in which of its own sections matter: their names.
    """
    found: dict[str, Any] = {}
    in_use = config.sections_in_use() if hasattr(config, "sections_in_use") else None
    for one in fields(config):
        value = getattr(config, one.name)
        if one.metadata.get("is_free"):
            continue
        if is_dataclass(value):
            if in_use is None or one.name in in_use:
                found |= {f"{one.name}.{key}": inner for key, inner in identity_of(value).items()}
        else:
            found[one.name] = _plain(value)
    return found


def chosen_in(config: Any) -> dict[str, Any]:
    """Of `identity_of` what is not a default: the same for a version that has more keys."""
    return {key: value for key, value in identity_of(config).items() if value != _default(config, key)}


def differences(saved: Mapping[str, Any], config: Any) -> list[str]:
    """What a saved identity and a configuration differ in, in words.

    A key that was not yet there when it was saved had its default; one that does not matter any more is passed over.
    """
    asked = identity_of(config)
    pairs = {key: (saved[key] if key in saved else _default(config, key), value) for key, value in asked.items()}
    pairs = {key: (value if before is MISSING else before, value) for key, (before, value) in pairs.items()}
    pairs |= {key: (saved[key], "no key of this version") for key in saved if not _is_key(config, key)}
    return [f"{key} was {before}, now {now}" for key, (before, now) in pairs.items() if before != now]


def dotted(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested sections by their dotted keys."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _default(config: Any, key: str) -> Any:
    """The default of a dotted key; MISSING where there is none, which no older run can lack."""
    value: Any = config
    default: Any = MISSING
    for name in key.split("."):
        one: Any = next(one for one in fields(value) if one.name == name)
        if default is not MISSING:
            default = getattr(default, name)  # that of the section, which may be another than its field's own
        elif one.default_factory is not MISSING:
            default = one.default_factory()
        else:
            default = one.default
        value = getattr(value, name)
    return _plain(default)


def _is_key(config: Any, key: str) -> bool:
    *sections, name = key.split(".")
    for section in sections:
        config = getattr(config, section, None)
    return is_dataclass(config) and name in {one.name for one in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
