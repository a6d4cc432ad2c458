"""Frozen dataclasses to JSON and back, for values that are nested records.

A record is written as its fields plus ``"type"``, its class name; reading takes the classes that
may occur, so a file can only ever become one of those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from onceforall.errors import ConfigError

# What a word of an annotation, which is a string, stands for.
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
    "tuple": (),
}


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
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"record type {name!r} is not one of {', '.join(known)}")
    parts = {key: _read(item, known) for key, item in value.items() if key != "type"}
    _check_kinds(known[name], parts, known)
    try:
        return known[name](**parts)
    except TypeError as error:
        raise ConfigError(f"record {name}: {error}") from error


def _check_kinds(cls: Any, parts: dict[str, Any], known: dict[str, type]) -> None:
    """Refuse a value that is not of the kind its field says, where that is plain."""
    kinds = {**_KINDS, **{name: (kind,) for name, kind in known.items()}}
    for field in fields(cls):
        words = re.findall(r"\w+", str(field.type))
        if field.name not in parts or not kinds.keys() >= set(words):
            continue
        value = parts[field.name]
        allowed = tuple(kind for word in words for kind in kinds[word])
        fits = all(isinstance(leaf, allowed) for leaf in _leaves(value))
        if not fits or isinstance(value, tuple) != (words[0] == "tuple"):
            raise ConfigError(f"record {cls.__name__}: {field.name} {value!r} is not {field.type}")


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is not a tuple, however deep."""
    if not isinstance(value, tuple):
        yield value
        return
    for item in value:
        yield from _leaves(item)
