"""Choices of a stage and what an arch has chosen."""

from __future__ import annotations

import random
from typing import Any

import pytest

from onceforall.errors import ArchError
from onceforall.genes import Gene, StageChoices, check_ascending, choice_of, values_of
from tests.spaces import SPACES, TINY


@pytest.mark.parametrize("options", [(), (3, 3), (5, 3), (-1, 2)])
def test_options_ascend_and_are_distinct(options: tuple[int, ...]) -> None:
    with pytest.raises(ArchError, match="depths must be ascending, distinct and positive"):
        check_ascending("depths", options)
    check_ascending("depths", (0, 2, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (0, 2)}, r"depths \(0, 2\) are not between 1 and 3 blocks"),
        ({"depths": (2, 4)}, r"depths \(2, 4\) are not between 1 and 3 blocks"),
        ({"kernel_sizes": (5, 3)}, "kernel_sizes must be ascending"),
        ({"expand_ratios": ()}, "expand_ratios must be ascending"),
        ({"width_mults": (1.0, 0.5)}, "width_mults must be ascending"),
    ],
)
def test_a_stage_checks_its_choices(changes: dict[str, Any], message: str) -> None:
    usual = {"num_blocks": 3, "depths": (1, 3), "kernel_sizes": (3, 5), "expand_ratios": (2, 3)}
    StageChoices(**usual)  # type: ignore[arg-type]
    with pytest.raises(ArchError, match=message):
        StageChoices(**{**usual, **changes})


@pytest.mark.parametrize("name", SPACES)
def test_an_arch_is_the_choices_of_its_genes(name: str) -> None:
    space, rng = SPACES[name], random.Random(0)
    for _ in range(10):
        arch = space.sample(rng)
        row = space.encode(arch)
        for gene, index in zip(space.genes, row, strict=True):
            if gene.counts_in(arch):
                assert choice_of(arch, gene) == gene.choices[index]
                assert choice_of(arch, gene) in values_of(arch, gene.axis)
            else:
                assert index == 0, "what does not run has one spelling"


def test_blocks_that_depth_switches_off_do_not_count() -> None:
    arch = TINY.uniform(depth=1)
    first = Gene(axis="kernel_size", stage=0, block=0, choices=(3, 5))
    last = Gene(axis="kernel_size", stage=0, block=2, choices=(3, 5))
    depth = Gene(axis="depth", stage=0, block=-1, choices=(1, 3))
    assert [gene.counts_in(arch) for gene in (first, last, depth)] == [True, False, True]


def test_the_values_of_an_axis_are_distinct_and_ascending() -> None:
    arch = TINY.smallest
    assert values_of(arch, "resolution") == (8,)
    assert values_of(arch, "depth") == (1,)
    assert values_of(arch, "expand_ratio") == (1, 2), "the rigid stage has its own"
    assert values_of(SPACES["mbv3"].largest, "width_mult") == ()
