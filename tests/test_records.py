"""Nested records as JSON: round trips, and what is refused with a line that names it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.errors import ConfigError
from onceforall.records import record_from_json, record_to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    count: int = 0
    share: float = 0.0
    word: str = ""
    flag: bool = False
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    grid: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.leaves) > 3:
            raise ConfigError(f"{len(self.leaves)} leaves are more than 3")


LARGE = 10**9  # numbers are of a size that arithmetic bears
LEAVES = st.builds(
    Leaf,
    count=st.integers(-LARGE, LARGE),
    share=st.floats(-LARGE, LARGE) | st.integers(-5, 5),
    word=st.text(),
    flag=st.booleans(),
    sizes=st.lists(st.integers(0, 99), max_size=3).map(tuple),
)
TREES = st.builds(
    Tree,
    leaf=st.none() | LEAVES,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    grid=st.lists(st.lists(st.floats(0, 1), max_size=2).map(tuple), max_size=2).map(tuple),
)


def read(value: Any) -> Any:
    return record_from_json(value, (Leaf, Tree))


@given(TREES)
def test_what_was_written_is_read_back(tree: Tree) -> None:
    assert read(json.loads(json.dumps(record_to_json(tree)))) == tree


def test_a_record_is_its_fields_and_its_name() -> None:
    assert record_to_json(Leaf(count=3, sizes=(1, 2))) == {
        "type": "Leaf", "count": 3, "share": 0.0, "word": "", "flag": False, "sizes": [1, 2]
    }  # fmt: skip
    assert read({"type": "Leaf"}) == Leaf(), "fields that are left out keep their defaults"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "Path"}, "record type 'Path' is not one of Leaf, Tree"),
        ({"count": 1}, "record type None is not one of"),
        ({"type": ["Leaf"]}, r"record type \['Leaf'\] is not one of"),
        ({"type": "Leaf", "colour": 1}, "record Leaf: .*colour"),
        ({"type": "Leaf", "count": "1"}, "record Leaf: count '1' is not int"),
        ({"type": "Leaf", "count": 1.5}, "record Leaf: count 1.5 is not int"),
        ({"type": "Leaf", "count": None}, "record Leaf: count None is not int"),
        ({"type": "Leaf", "share": "half"}, "record Leaf: share 'half' is not float"),
        ({"type": "Leaf", "flag": 1}, "record Leaf: flag 1 is not bool"),
        ({"type": "Leaf", "count": True}, "record Leaf: count True is not int"),
        ({"type": "Leaf", "count": 10**30}, "record Leaf: count 1000.* is not int"),
        ({"type": "Leaf", "share": float("inf")}, "record Leaf: share inf is not float"),
        ({"type": "Leaf", "sizes": 3}, "record Leaf: sizes 3 is not tuple"),
        ({"type": "Leaf", "sizes": [1, "2"]}, r"sizes \(1, '2'\) is not tuple"),
        ({"type": "Leaf", "word": ["a"]}, r"record Leaf: word \('a',\) is not str"),
        ({"type": "Tree", "leaf": 3}, "record Tree: leaf 3 is not .*Leaf"),
        ({"type": "Tree", "leaf": []}, r"record Tree: leaf \(\) is not .*Leaf"),
        ({"type": "Tree", "leaves": [{"type": "Tree"}]}, "record Tree: leaves .* is not tuple"),
        ({"type": "Tree", "leaves": [None]}, "record Tree: leaves .* is not tuple"),
        ({"type": "Tree", "leaves": [{"type": "Leaf"}] * 4}, "4 leaves are more than 3"),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(value)


def test_a_whole_number_is_a_float() -> None:
    assert read({"type": "Leaf", "share": 2}).share == 2
