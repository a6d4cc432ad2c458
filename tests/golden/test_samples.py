"""Seeded subnets: the published draws, in the published order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from onceforall.published_archs import arch_from_published
from onceforall.space import SearchSpace
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.hub import HubSupernet
from tests.golden.conftest import SPECS

KERNELS = [5, 5, 3, 5, 7, 5, 5, 5, 5, 5, 7, 3, 7, 3, 5, 3, 3, 7, 5, 7]
SAMPLES: dict[str, dict[str, list[Any]]] = {  # after random.seed(0)
    "mbv3_w1.0": {
        "ks": KERNELS,
        "e": [6, 6, 3, 4, 3, 6, 3, 6, 4, 4, 6, 3, 4, 4, 4, 6, 6, 3, 6, 4],
        "d": [3, 4, 3, 2, 4],
    },
    "proxyless_w1.3": {
        "ks": [*KERNELS, 7],
        "e": [6, 3, 4, 3, 6, 3, 6, 4, 4, 6, 3, 4, 4, 4, 6, 6, 3, 6, 4, 4, 6],
        "d": [3, 2, 4, 2, 2, 1],
    },
    "resnet50": {
        "d": [0, 2, 2, 2, 0],
        "e": [0.25, 0.25, 0.2, 0.25, 0.35, 0.25, 0.25, 0.25, 0.25, 0.25, 0.35, 0.2, 0.35, 0.2,
              0.25, 0.2, 0.2, 0.35],
        "w": [1, 0, 2, 0, 2, 1],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_hub_shell_draws_the_published_lists(name: str) -> None:
    shell = HubSupernet(Supernet(SPECS[name]()))
    state = random.getstate()
    try:
        random.seed(0)
        assert shell.sample_active_subnet() == SAMPLES[name]
    finally:
        random.setstate(state)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_space_draws_the_published_arch_from_a_private_generator(name: str) -> None:
    space = SPECS[name]().space
    state = random.getstate()
    arch = space.sample(random.Random(0))
    assert random.getstate() == state
    assert arch_from_published(space, SAMPLES[name], resolution=arch.resolution) == arch


@pytest.mark.parametrize(
    ("seed", "depth"),
    [(1000, (4, 2, 4, 4, 2)), (123003000, (2, 4, 3, 3, 3))],
)
def test_step_seeds_draw_the_published_depths(seed: int, depth: tuple[int, ...]) -> None:
    assert SPECS["mbv3_w1.0"]().space.sample(random.Random(seed)).depth == depth


def test_a_rigid_depth_is_drawn_as_well_so_that_later_subnets_agree() -> None:
    """The published ProxylessNAS draws six depths and overwrites the last one."""
    shell = HubSupernet(Supernet(SPECS["proxyless_w1.3"]()))
    state = random.getstate()
    try:
        random.seed(0)
        shell.sample_active_subnet()
        after = random.getstate()
    finally:
        random.setstate(state)
    rng = random.Random(0)
    for _ in range(21 + 21 + 6):
        rng.choice((0, 1, 2))
    assert rng.getstate() == after


def test_published_resnet_settings_mean_blocks_beyond_the_fewest() -> None:
    space: SearchSpace = SPECS["resnet50"]().space
    arch = arch_from_published(space, {"d": [1, 0, 1, 2, 0], "e": 0.2, "w": [0, 1, 2, 0, 1, 2]})
    assert arch.stem_depth == 0  # only d[0] = 2 keeps the stem's residual convolution
    assert arch.depth == (2, 3, 6, 2)
    assert arch.width_mult == (0.65, 0.8, 1.0, 0.65, 0.8, 1.0)
