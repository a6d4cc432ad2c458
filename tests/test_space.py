"""SearchSpace: membership, encoding, drawing, restriction, size, error texts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.genes import StageChoices
from onceforall.published_archs import arch_from_published
from onceforall.space import SearchSpace
from tests.spaces import SPACES, TINY

NAMES = st.sampled_from(sorted(SPACES))
SEEDS = st.integers(0, 2**32)


def all_rows(space: SearchSpace) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(gene.choices)) for gene in space.genes)))


# -- size and encoding ----------------------------------------------------------------------------


def test_the_size_is_the_number_of_distinct_archs() -> None:
    assert TINY.size == len({TINY.decode(row) for row in all_rows(TINY)})


@pytest.mark.parametrize("depths", [(1,), (2,), (1, 2), (1, 3), (1, 2, 3)])
@pytest.mark.parametrize("kernel_sizes", [(3,), (3, 5)])
def test_the_size_of_one_stage_by_counting(
    depths: tuple[int, ...], kernel_sizes: tuple[int, ...]
) -> None:
    stage = StageChoices(
        num_blocks=3, depths=depths, kernel_sizes=kernel_sizes, expand_ratios=(1, 2)
    )
    space = SearchSpace(stages=(stage,), resolutions=(32,))
    assert space.size == len({space.decode(row) for row in all_rows(space)})


def test_encoding_inverts_decoding_on_canonical_rows() -> None:
    for row in all_rows(TINY):
        arch = TINY.decode(row)
        canonical = TINY.encode(arch)
        assert TINY.decode(canonical) == arch
        assert TINY.encode(TINY.decode(canonical)) == canonical
    archs = {TINY.decode(row) for row in all_rows(TINY)}
    assert len({TINY.encode(arch) for arch in archs}) == len(archs)


@given(NAMES, SEEDS)
def test_decoding_inverts_encoding(name: str, seed: int) -> None:
    space = SPACES[name]
    arch = space.sample(random.Random(seed))
    row = space.encode(arch)
    assert space.decode(row) == arch
    for gene, index in zip(space.genes, row, strict=True):
        if gene.block >= 0 and gene.block >= arch.depth[gene.stage]:
            assert index == 0


# -- drawing --------------------------------------------------------------------------------------


@given(NAMES, SEEDS, SEEDS)
def test_moves_stay_in_the_space(name: str, first_seed: int, second_seed: int) -> None:
    space = SPACES[name]
    rng = random.Random(first_seed)
    first, second = space.sample(rng), space.sample(random.Random(second_seed))
    mutant = space.mutate(first, rng, probability=0.3)
    child = space.crossover(first, second, rng)
    for arch in (first, second, mutant, child):
        assert space.contains(arch)
    pairs = zip(
        space.encode(child), space.encode(first), space.encode(second), space.genes, strict=True
    )
    for index, a, b, gene in pairs:
        off = gene.block >= 0 and gene.block >= child.depth[gene.stage]
        assert off or index in (a, b)


def test_mutation_redraws_with_the_given_probability() -> None:
    space, rng = SPACES["mbv3"], random.Random(0)
    arch = space.sample(rng)
    assert space.mutate(arch, rng, probability=0) == arch
    assert space.mutate(arch, random.Random(1), probability=0.1) != arch
    drawn = {space.mutate(arch, rng, probability=1.0).resolution for _ in range(300)}
    assert drawn == set(space.resolutions)


def test_samples_are_uniform_over_each_gene() -> None:
    rng = random.Random(0)
    counts = Counter((a.depth[0], a.resolution) for a in (TINY.sample(rng) for _ in range(4000)))
    assert len(counts) == 4
    assert all(abs(count - 1000) < 150 for count in counts.values())  # 5 standard deviations


@given(NAMES, SEEDS)
def test_neighbours_differ_in_one_gene_and_are_distinct(name: str, seed: int) -> None:
    space = SPACES[name]
    arch = space.sample(random.Random(seed))
    near = list(space.neighbours(arch))
    assert len(near) == len(set(near))
    assert arch not in near
    row = space.encode(arch)
    for other in near[:20]:
        assert space.contains(other)
        changed = [
            gene.axis
            for gene, a, b in zip(space.genes, row, space.encode(other), strict=True)
            if a != b
        ]
        # A change of depth may switch off blocks whose choices then read as the smallest.
        assert len(changed) == 1 or "depth" in changed


def test_neighbours_by_counting() -> None:
    arch = TINY.largest
    expected = {
        TINY.decode(row)
        for row in all_rows(TINY)
        if sum(a != b for a, b in zip(row, TINY.encode(arch), strict=True)) == 1
    } - {arch}
    assert set(TINY.neighbours(arch)) == expected


# -- particular archs and restrictions ------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SPACES))
def test_smallest_and_largest_take_the_ends(name: str) -> None:
    space = SPACES[name]
    assert space.encode(space.smallest) == tuple(0 for _ in space.genes)
    assert space.encode(space.largest) == tuple(len(g.choices) - 1 for g in space.genes)
    assert space.uniform() == space.largest


def test_uniform_sets_every_elastic_place_and_leaves_rigid_ones() -> None:
    arch = SPACES["proxyless"].uniform(kernel_size=5, expand_ratio=4, depth=3, resolution=192)
    assert arch.depth == (3, 3, 3, 3, 3, 1)
    assert {k for stage in arch.kernel_size for k in stage} == {5}
    assert {e for stage in arch.expand_ratio for e in stage} == {4}
    assert arch.resolution == 192


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kernel_size": 9}, r"kernel_size 9 is not one of \(3, 5, 7\)"),
        ({"depth": 5}, r"depth 5 is not one of \(2, 3, 4\)"),
        ({"resolution": 130}, "resolution 130 is not one of"),
        ({"width_mult": 0.5}, "width_mult 0.5 is not one of absent"),
    ],
)
def test_uniform_refuses_what_is_no_option(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        SPACES["mbv3"].uniform(**wanted)


@given(NAMES, SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_what_is_drawn_from_a_part_is_in_the_whole(
    name: str, seed: int, depth: int, kernel_size: int, expand_ratio: int
) -> None:
    space = SPACES[name]
    part = space.keep_largest(depth=depth, kernel_size=kernel_size, expand_ratio=expand_ratio)
    arch = part.sample(random.Random(seed))
    assert part.contains(arch)
    assert space.contains(arch)
    assert part.size <= space.size
    assert part.largest == space.largest


def test_keep_largest_keeps_the_largest() -> None:
    space = SPACES["mbv3"].keep_largest(depth=2, kernel_size=1)
    assert {stage.depths for stage in space.stages} == {(3, 4)}
    assert {stage.kernel_sizes for stage in space.stages} == {(7,)}
    assert {stage.expand_ratios for stage in space.stages} == {(3, 4, 6)}
    assert not space.contains(SPACES["mbv3"].smallest)


@given(SEEDS)
def test_restriction_keeps_exactly_the_given_options(seed: int) -> None:
    space = SPACES["proxyless"]
    part = space.restrict(kernel_size=(3, 7), depth=(2, 4), resolution=(160,))
    arch = part.sample(random.Random(seed))
    assert arch.resolution == 160
    assert set(arch.depth[:5]) <= {2, 4}
    assert arch.depth[5] == 1  # the rigid stage keeps its only option
    assert {k for stage in arch.kernel_size for k in stage} <= {3, 7}
    assert space.contains(arch)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"kernel_size": (9,)}, r"kernel_size 9 is not one of \(3, 5, 7\)"),
        ({"depth": ()}, r"depth \(\) leaves nothing of \(2, 3, 4\)"),
    ],
)
def test_restriction_refuses_unknown_and_empty_options(keep: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        SPACES["mbv3"].restrict(**keep)


def test_keep_largest_refuses_unknown_axes_and_zero() -> None:
    with pytest.raises(ArchError, match="depht=2 is not an axis"):
        SPACES["mbv3"].keep_largest(depht=2)
    with pytest.raises(ArchError, match="depth=0 is not an axis"):
        SPACES["mbv3"].keep_largest(depth=0)


# -- membership -----------------------------------------------------------------------------------

LARGEST = SPACES["mbv3"].largest


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (SPACES["proxyless"].largest, "arch has 6 stages where the space has 5"),
        (replace(LARGEST, resolution=130), "resolution 130 is not one of"),
        (replace(LARGEST, width_mult=(1.0,)), "arch has 1 width multipliers where the space has 0"),
        (replace(LARGEST, stem_depth=1), r"stem_depth 1 is not one of \(None,\)"),
        (replace(LARGEST, depth=(4, 4, 1, 4, 4)), r"stage 2: depth 1 is not one of \(2, 3, 4\)"),
        (
            replace(LARGEST, kernel_size=(*LARGEST.kernel_size[:4], (7, 9, 7, 7))),
            r"stage 4 block 1: kernel_size 9 is not one of \(3, 5, 7\)",
        ),
        (
            replace(LARGEST, expand_ratio=((5, 6, 6, 6), *LARGEST.expand_ratio[1:])),
            r"stage 0 block 0: expand_ratio 5 is not one of \(3, 4, 6\)",
        ),
    ],
)
def test_violations_name_the_place_the_value_and_what_is_allowed(arch: Arch, message: str) -> None:
    space = SPACES["mbv3"]
    assert not space.contains(arch)
    with pytest.raises(ArchError, match=message):
        space.check(arch)
    with pytest.raises(ArchError, match=message):
        space.encode(arch)


def test_choices_of_blocks_that_do_not_run_are_not_checked() -> None:
    arch = replace(
        LARGEST, depth=(2, 4, 4, 4, 4), kernel_size=((3, 3, 99, 99), *LARGEST.kernel_size[1:])
    )
    assert SPACES["mbv3"].contains(arch)


def test_rows_of_the_wrong_length_or_range_are_refused() -> None:
    count = len(TINY.genes)
    with pytest.raises(ArchError, match=f"row has 1 genes where the space has {count}"):
        TINY.decode([0])
    with pytest.raises(ArchError, match=r"gene resolution index 2 is not in 0\.\.1"):
        TINY.decode([2] + [0] * (count - 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (2, 1)}, r"depths must be ascending, distinct and positive, got \(2, 1\)"),
        ({"kernel_sizes": ()}, "kernel_sizes must be ascending"),
        ({"depths": (1, 4)}, r"depths \(1, 4\) are not between 1 and 3 blocks"),
        ({"width_mults": (1.0, 1.0)}, "width_mults must be ascending"),
    ],
)
def test_impossible_stages_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        replace(TINY.stages[0], **fields)


# -- the published spelling -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published", "message"),
    [
        ("mbv3", {"depth": 2}, "unknown key 'depth'; published archs have"),
        ("mbv3", {"ks": [3, 3]}, "ks has 2 entries where the space has 20"),
        ("mbv3", {"ks": 9}, r"stage 0 block 0: kernel_size 9 is not one of \(3, 5, 7\)"),
        ("mbv3", {"e": 5}, "expand_ratio 5 is not one of"),
        ("mbv3", {"d": 9}, r"d 9 of stage 0 is not one of \(2, 3, 4\)"),
        ("mbv3", {"d": [4, 4, 0, 4, 4]}, "d 0 of stage 2 is not one of"),
        ("mbv3", {"d": 2.5}, "d 2.5 is not a whole number"),
        ("mbv3", {"w": 1}, "w 1: no width of this space is elastic"),
        ("mbv3", {"image_size": 130}, "resolution 130 is not one of"),
        ("proxyless", {"d": [4, 4, 4, 4, 4, 9]}, r"d 9 of stage 5 is not one of \(1,\)"),
        ("resnet", {"d": 4}, r"d\[0\] 4 \(the stem switch\) is not one of \(0, 1, 2\)"),
        ("resnet", {"d": [2, 3, 0, 0, 0]}, r"d 3 of stage 0 is not one of \(0, 1, 2\)"),
        ("resnet", {"e": 6}, "expand_ratio 6 is not one of"),
        ("resnet", {"ks": 7}, r"kernel_size 7 is not one of \(3,\)"),
        ("resnet", {"w": 3}, "w 3 is not an index into"),
    ],
)
def test_published_settings_are_checked(name: str, published: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message):
        arch_from_published(SPACES[name], published)


def test_published_settings_may_be_scalars_lists_or_absent() -> None:
    space = SPACES["mbv3"]
    assert arch_from_published(space, {}) == space.largest
    assert (
        arch_from_published(space, {"ks": 3, "e": 3, "d": 2, "image_size": 128}) == space.smallest
    )
    assert arch_from_published(
        space, {"ks": [3] * 20, "wid": None, "r": [128], "e": 3, "d": [2] * 5}
    ) == (space.smallest)
    rigid = arch_from_published(SPACES["proxyless"], {"d": 4})
    assert rigid.depth == (4, 4, 4, 4, 4, 1)


def test_a_restricted_resnet_counts_from_the_same_fewest_blocks() -> None:
    space = SPACES["resnet"].keep_largest(depth=2)
    assert arch_from_published(space, {"d": [2, 2, 1, 2, 1]}).depth == (4, 3, 6, 3)
    with pytest.raises(ArchError, match=r"d 0 of stage 0 is not one of \(1, 2\)"):
        arch_from_published(space, {"d": [2, 0, 1, 2, 1]})
