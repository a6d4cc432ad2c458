"""Frozen dataclasses to JSON and back, for values that are nested records.

A record is written as its fields plus ``"type"``, its class name; reading takes the classes that
may occur, so a file can only ever become one of those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from onceforall.errors import ConfigError

# By annotation, which is a string.
_KINDS: dict[Any, tuple[type, ...]] = {
    "int": (int,), "bool": (bool,), "float": (int, float), "str": (str,),
}  # fmt: skip


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
        ConfigError: If a type or field is unknown or missing.
    """
    known = {cls.__name__: cls for cls in types}
    return _read(value, known)


def _read(value: Any, known: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_read(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    if name not in known:
        raise ConfigError(f"record type {name!r} is not one of {', '.join(known)}")
    parts = {key: _read(item, known) for key, item in value.items() if key != "type"}
    _check_kinds(known[name], parts)
    try:
        return known[name](**parts)
    except TypeError as error:
        raise ConfigError(f"record {name}: {error}") from error


def _check_kinds(cls: Any, parts: dict[str, Any]) -> None:
    """Refuse a number, word or truth value that is not of the kind its field says."""
    for field in fields(cls):
        kinds = _KINDS.get(field.type)
        if kinds and field.name in parts and not isinstance(parts[field.name], kinds):
            raise ConfigError(
                f"record {cls.__name__}: {field.name} {parts[field.name]!r} is not {field.type}"
            )
