"""Values of YAML texts that nobody vouches for.

An alias multiplies what it stands for, a tag makes objects, and lists nested by the ten thousand
end the interpreter: none of them is in a file of settings, and none is read.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from onceforall.reading import MAX_DEPTH, too_deep

# Takes a hundred times as much memory and time as JSON: a published latency table has 0.02 MB.
MAX_YAML_BYTES = 2 * 2**20
_MAX_NUMBER_LETTERS = 64


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text: no aliases, tags or repeated keys, and every key a text.

    Raises:
        ValueError: If it is none, on one line.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"{len(text):,} characters, more than {MAX_YAML_BYTES:,}")
    try:
        _check_events(text)
        # What is left can be no deeper than that, and is as large as its text.
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(value: Any) -> str:
    """Return a text that :func:`parse_yaml` reads: parts that are one object are written twice."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def dump_yaml_line(value: Any) -> str:
    """Return the same on one line, keys sorted."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=math.inf)
    return text.strip()


class _Dumper(yaml.SafeDumper):
    """The safe dumper, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, for numbers of a length and mappings of texts that name each key once."""

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        # 1:1:1:... is a number too, to the base of 60.
        if not node.tag.endswith(":str") and len(node.value) > _MAX_NUMBER_LETTERS:
            raise ValueError(f"{node.value[:20]}... is too long for a number: write it in quotes")
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        value: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"key {key!r} is not a text: write it in quotes")
        if len(value) != len(node.value):
            keys = [self.construct_object(key) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"key {twice!r} is there twice")
        return value


def _check_events(text: str | bytes) -> None:
    """Refuse what makes values larger or deeper than their text, before anything is made of it."""
    depth = 0
    # The parser works through events without recursion, and stops when nobody asks for more.
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"alias *{event.anchor} is not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(too_deep())
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise ValueError(f"tag {tag} is not allowed")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise ValueError("merge key << is not allowed")
