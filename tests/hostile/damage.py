"""What is done to good files: cut, changed, made deep, made large, made of something else."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Values that somewhere meant too much or too little to somebody.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, -1e308,
    1e-320, float("nan"), float("inf"), float("-inf"), "", "x", "abc", "1", "nan", "1e999",
    "../../x", "/etc/hostname", "a\nb", "\x1b[31mred", "\u202eabc", "\ud800", "\0", "x" * 5000,
    [], [[]], [None], [0], [1, 2, 3], ["x"], [1e308] * 3, list(range(300)), {}, {"": None},
    {"type": ["x"]}, {"type": "Conv"}, {"a": {"b": {"c": []}}},
)  # fmt: skip
_DEEP = "[" * 3000
TEXTS = (
    b"", b"\0", b"null", b"[]", b"{}", b"3", b'"x"', b"NaN", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}",
    _DEEP.encode(), b'{"a":' * 3000, b"9" * 5000, b"-", b"a: &x [1]\nb: *x\n", b"1: 2\n",
    b"!!python/object/apply:os.system [true]\n", b"<<: {a: 1}\n", b"\x80\x04c.", b"PK\x03\x04",
    b"a: 1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1\n",
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:6])
        if isinstance(value, list)
        else ()
    )
    return [path] + [place for key, part in inner for place in _places(part, (*path, key))]


@st.composite
def changed_values(draw: st.DrawFn, value: Any) -> Any:
    """Return a JSON value with one to three parts replaced, left out or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        path = places[draw(st.integers(0, len(places) - 1))]
        hostile = copy.deepcopy(HOSTILE[draw(st.integers(0, len(HOSTILE) - 1))])
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return hostile
            if isinstance(value, dict):
                value[draw(st.sampled_from(["x", "type", "name", ""]))] = hostile
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()) or isinstance(holder, list):
            holder[path[-1]] = hostile
        else:
            del holder[path[-1]]
    return value


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes that were cut, overwritten, repeated, or are other ones altogether."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "drop", "text", "random", "twice"]))
    place = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(draw(st.integers(1, 8))):
            if changed:
                index = draw(st.integers(0, len(changed) - 1))
                changed[index] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=64)) + data[place:]
    if kind == "drop":
        return data[:place] + data[place + draw(st.integers(1, 64)) :]
    if kind == "text":
        return draw(st.sampled_from(TEXTS))
    return draw(st.binary(max_size=256)) if kind == "random" else data + data


@st.composite
def changed_json(draw: st.DrawFn, data: bytes) -> bytes:
    """Return the text of a JSON file: mostly still JSON, with parts changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(data))
    return json.dumps(draw(changed_values(json.loads(data)))).encode()


@st.composite
def changed_lines(draw: st.DrawFn, data: bytes) -> bytes:
    """Return a file of one JSON object a line, one of them changed."""
    lines = data.splitlines(keepends=True)
    if not lines or draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(data))
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(draw(changed_values(json.loads(lines[number])))).encode() + b"\n"
    return b"".join(lines)
