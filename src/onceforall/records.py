"""Frozen dataclasses to JSON and back, for values that are nested records.

A record is written as its fields plus ``"type"``, its class name; reading takes the classes that
may occur, so a file can only ever become one of those.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from onceforall.errors import ConfigError

_LARGEST = 10**9


def record_to_json(value: Any) -> Any:
    """Return plain JSON for a record, a tuple of records, or a plain value."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: record_to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **parts}
    if isinstance(value, tuple | list):
        return [record_to_json(item) for item in value]
    return value


def record_from_json(value: Any, types: Iterable[type]) -> Any:
    """Return the record that :func:`record_to_json` wrote; lists become tuples.

    Args:
        value: The JSON value.
        types: Every class that may occur.

    Raises:
        ConfigError: If a type or field is unknown, missing, or holds something else than it may.
    """
    known = {cls.__name__: cls for cls in types}
    return _read(value, known)


def _read(value: Any, known: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_read(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"record type {name!r} is not one of {', '.join(known)}")
    parts = {key: _read(item, known) for key, item in value.items() if key != "type"}
    hints = field_types(known[name])
    for key, part in parts.items():
        if key in hints and not fits(part, hints[key]):
            raise ConfigError(f"record {name}: {key} {part!r} is not {_shown(hints[key])}")
    try:
        return known[name](**parts)
    except TypeError as error:  # fields that are missing or unknown
        raise ConfigError(f"record {name}: {error}") from error


def _shown(hint: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return getattr(hint, "__name__", str(hint).replace("typing.", ""))


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the type of each field of a record."""
    return typing.get_type_hints(cls)


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of an annotated type; numbers are of a size that arithmetic bears."""
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(fits(part, arguments[0]) for part in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if hint in (int, float):
        is_number = isinstance(value, int | hint) and not isinstance(value, bool)
        return is_number and abs(value) <= _LARGEST
    return value is None if hint is type(None) else isinstance(value, hint)
