"""Arch: equality, JSON, published spelling and error texts."""

from __future__ import annotations

import json
import math
import random
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.published_archs import arch_from_published
from tests.spaces import SPACES

ARCH = Arch(
    resolution=160,
    depth=(2, 1),
    kernel_size=((3, 5, 7), (7, 3)),
    expand_ratio=((3, 4, 6), (6, 4)),
)


def test_choices_of_blocks_that_do_not_run_do_not_count() -> None:
    other = replace(ARCH, kernel_size=((3, 5, 3), (7, 7)), expand_ratio=((3, 4, 3), (6, 3)))
    assert other == ARCH
    assert hash(other) == hash(ARCH)
    assert other.to_json() == ARCH.to_json()
    assert str(other) == str(ARCH) == "160px k35.7 e34.6"
    assert len({ARCH, other}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 164},
        {"depth": (3, 1)},
        {"kernel_size": ((3, 3), (7,))},
        {"expand_ratio": ((3, 3), (6,))},
        {"width_mult": (1.0,)},
        {"stem_depth": 0},
    ],
)
def test_what_runs_counts(change: dict[str, Any]) -> None:
    assert replace(ARCH, **change) != ARCH


def test_an_arch_is_not_equal_to_other_things() -> None:
    assert ARCH.to_json() != ARCH


def test_an_arch_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ARCH.depth = (1, 1)  # type: ignore[misc]


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32))
def test_json_round_trip(name: str, seed: int) -> None:
    arch = SPACES[name].sample(random.Random(seed))
    text = json.dumps(arch.to_json())
    again = Arch.from_json(json.loads(text))
    assert again == arch
    assert json.dumps(again.to_json()) == text


@given(st.sampled_from(["mbv3", "proxyless", "resnet"]), st.integers(0, 2**32))
def test_published_round_trip(name: str, seed: int) -> None:
    space = SPACES[name]
    arch = space.sample(random.Random(seed))
    published = arch.to_published()
    assert arch_from_published(space, published, resolution=arch.resolution) == arch
    json.dumps(published)


def test_equal_archs_are_the_same_text_whatever_their_numbers_are() -> None:
    whole = Arch(resolution=24, depth=(1,), kernel_size=((3,),), expand_ratio=((2,),))
    others = (
        Arch(resolution=24.0, depth=[1.0], kernel_size=[[3.0]], expand_ratio=[(2.0,)]),  # type: ignore[arg-type]
        Arch(
            resolution=np.int64(24),  # type: ignore[arg-type]
            depth=(np.int64(1),),  # type: ignore[arg-type]
            kernel_size=((np.uint8(3),),),  # type: ignore[arg-type]
            expand_ratio=((np.float32(2),),),  # type: ignore[arg-type]
        ),
    )
    for other in others:
        assert other == whole and hash(other) == hash(whole)
        assert json.dumps(other.to_json()) == json.dumps(whole.to_json())
    for wrong in ({"depth": (1.5,)}, {"expand_ratio": ((math.nan,),)}, {"stem_depth": "x"}):
        with pytest.raises(ArchError, match=r"is not a (whole )?number"):
            replace(whole, **wrong)  # type: ignore[arg-type]


def test_published_numbers_may_be_floats() -> None:
    """As ``json.dumps(array.tolist())`` writes them."""
    space = SPACES["mbv3"]
    whole = {"ks": [5] * 20, "e": [4] * 20, "d": [3] * 5}
    floats = {name: [float(value) for value in values] for name, values in whole.items()}
    arch = arch_from_published(space, floats, resolution=224)
    assert arch == arch_from_published(space, whole, resolution=224)
    assert json.dumps(arch.to_json()) == json.dumps(Arch.from_json(arch.to_json()).to_json())
    assert all(type(kernel) is int for stage in arch.kernel_size for kernel in stage)


def test_a_short_name_shows_fractions_widths_and_stem() -> None:
    arch = SPACES["resnet"].smallest
    assert str(arch).startswith("128px k33.33.3333.33 e0.2,0.2.0.2,0.2")
    assert str(arch).endswith("w0.65,0.65,0.65,0.65,0.65,0.65 s0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 0}, "resolution 0 is not a number of pixels from 1 to 2048"),
        ({"depth": (2,)}, "kernel_size has 2 stages where depth has 1"),
        ({"expand_ratio": ((3,),)}, "expand_ratio has 1 stages where depth has 2"),
        ({"depth": (4, 1)}, "stage 0: depth 4 is not between 1 and the 3 blocks that kernel_size"),
        ({"depth": (2, 0)}, "stage 1: depth 0 is not between 1 and the 2 blocks"),
    ],
)
def test_impossible_archs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        replace(ARCH, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 3}, "unknown field 'kernel'; the fields are resolution, depth"),
        ({"depth": ["x", 1]}, "arch: depth 'x' is not a number"),
        ({"depth": 3}, "arch: depth 3 is not a list"),
        ({"depth": [9, 1]}, "stage 0: depth 9 is not between"),
        ({"depth": [1.5, 1]}, "arch: depth 1.5 is not a whole number"),
        ({"depth": "31"}, "arch: depth '31' is not a list"),
        ({"depth": [True, 1]}, "arch: depth True is not a number"),
        ({"resolution": float("inf")}, "arch: resolution inf is not a number"),
        ({"resolution": 20_000}, "resolution 20000 is not a number of pixels from 1 to 2048"),
        ({"width_mult": [float("nan")]}, "arch: width_mult nan is not a number"),
    ],
)
def test_wrong_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        Arch.from_json({**ARCH.to_json(), **change})


def test_json_that_is_no_object_or_lacks_a_field_is_refused() -> None:
    with pytest.raises(ArchError, match="an arch is a JSON object with resolution"):
        Arch.from_json([1, 2])  # type: ignore[arg-type]
    value = ARCH.to_json()
    del value["depth"]
    with pytest.raises(ArchError, match="no field 'depth'"):
        Arch.from_json(value)


def test_only_published_families_have_a_published_spelling() -> None:
    with pytest.raises(ArchError, match="is not of a published family"):
        ARCH.to_published()
    with pytest.raises(ArchError, match="is not of a published family"):
        SPACES["small"].smallest.to_published()
