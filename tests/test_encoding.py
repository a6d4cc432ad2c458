"""Populations: the same archs as values and as rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.encoding import Encoding
from onceforall.predictors.published_features import published_mobilenet_layout
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import mobilenet_v3, small_images
from tests.spaces import SPACES

FAMILIES = pytest.mark.parametrize("family", SPACES)
ENCODINGS = {name: Encoding(space) for name, space in SPACES.items()}


@FAMILIES
@given(seed=st.integers(0, 2**32))
def test_rows_and_archs_are_inverse(family: str, seed: int) -> None:
    encoding, rng = ENCODINGS[family], random.Random(seed)
    archs = [SPACES[family].sample(rng) for _ in range(5)]
    rows = encoding.from_archs(archs)
    assert encoding.to_archs(rows) == archs
    assert rows.tolist() == [list(SPACES[family].encode(arch)) for arch in archs]


@FAMILIES
@given(seed=st.integers(0, 2**32))
def test_operators_stay_in_the_space_and_are_canonical(family: str, seed: int) -> None:
    encoding, rng = ENCODINGS[family], np.random.default_rng(seed)
    first, second = encoding.sample(8, rng), encoding.sample(8, rng)
    for rows in (
        first,
        encoding.canonical(encoding.mutate(first, rng, 0.5)),
        encoding.canonical(encoding.crossover(first, second, rng)),
    ):
        assert np.array_equal(encoding.canonical(rows), rows)
        for row, arch in zip(rows, encoding.to_archs(rows), strict=True):
            assert SPACES[family].contains(arch)
            assert tuple(row) == SPACES[family].encode(arch)


@FAMILIES
@given(seed=st.integers(0, 2**32))
def test_features_are_one_hot_choices_of_the_blocks_that_run(family: str, seed: int) -> None:
    encoding = ENCODINGS[family]
    rows = encoding.sample(6, np.random.default_rng(seed))
    features = encoding.features(rows)
    assert set(np.unique(features)) <= {0.0, 1.0}
    starts = np.cumsum(encoding.num_options) - encoding.num_options
    for row, on, places in zip(rows, encoding.active(rows), features, strict=True):
        assert np.flatnonzero(places).tolist() == (starts + row)[on].tolist()


@FAMILIES
def test_unique_keeps_the_first_of_equal_archs(family: str) -> None:
    encoding = ENCODINGS[family]
    rows = encoding.sample(20, np.random.default_rng(0))
    doubled = np.concatenate([rows, rows[::-1]])
    archs = list(dict.fromkeys(encoding.to_archs(doubled)))
    assert encoding.to_archs(encoding.unique(doubled)) == archs


def test_the_published_layout_has_its_ones_where_published() -> None:
    space = mobilenet_v3().space.restrict(resolution=(128, 160, 192, 224))
    arch = arch_from_published(space, {"ks": 3, "e": 6, "d": [2, 3, 4, 2, 2]}, resolution=192)
    encoding = Encoding(space)
    layout = published_mobilenet_layout(encoding, (128, 160, 192, 224))
    (features,) = layout.features(encoding.from_archs([arch]))
    assert len(features) == 124
    assert np.flatnonzero(features).tolist() == [
        2, 4, 7, 16, 19, 22, 28, 31, 34, 37, 40, 43, 52, 55, 66, 69, 78, 81, 84, 90, 93, 96, 99,
        102, 105, 114, 117,
    ]  # fmt: skip


def test_blocks_that_a_change_switches_on_get_every_option_alike() -> None:
    """Genes of blocks that do not run are written 0, which is no choice of theirs."""
    space = small_images(num_classes=3, depths=(1, 4), kernel_sizes=(3, 5, 7)).space
    encoding = Encoding(space)
    rng = np.random.default_rng(0)
    depths = [g for g, gene in enumerate(encoding.genes) if gene.axis == "depth"]
    shape = (2000, encoding.num_genes)
    shallow, deep = (rng.integers(0, encoding.num_options, shape, np.uint8) for _ in (0, 1))
    shallow[:, depths], deep[:, depths] = 0, 1
    shallow = encoding.canonical(shallow)
    kernels = [
        g for g, gene in enumerate(encoding.genes) if gene.axis == "kernel_size" and gene.block > 0
    ]

    def smallest_share(rows: np.ndarray) -> float:
        on = encoding.active(rows)[:, kernels]
        return float((rows[:, kernels][on] == 0).mean())

    for changed in (
        encoding.mutate(shallow, rng, 0.3),
        encoding.mutate_units(shallow, rng, 0.3),
        encoding.crossover(shallow, deep, rng),
    ):
        assert smallest_share(changed) == pytest.approx(1 / 3, abs=0.03)

    one, other = encoding.to_archs(np.stack([shallow[0], encoding.largest()[0]]))
    source = random.Random(0)
    archs = [space.mutate(one, source, probability=0.3) for _ in range(3000)]
    assert smallest_share(encoding.from_archs(archs)) == pytest.approx(1 / 3, abs=0.03)
    children = [space.crossover(one, other, source) for _ in range(300)]
    assert smallest_share(encoding.from_archs(children)) == 0.0
