"""The small family: its eight subnets, their costs, and its published names."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import onceforall
from onceforall.encoding import Encoding
from onceforall.errors import ArchError, ConfigError
from onceforall.grid import grid_archs
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.families import mobilenet_v3, ofanet, resnet50d
from onceforall.supernets.weights import spec_from_json, spec_to_json

SPEC = ofanet()
# (kernel size, depth, width): MACs at 32 pixels and parameters, as documented.
COSTS = {
    (5, 2, 2): (13_677_568, 218_346),
    (5, 2, 4): (21_754_880, 442_954),
    (5, 3, 2): (18_314_240, 324_650),
    (5, 3, 4): (31_093_760, 720_842),
    (7, 2, 2): (14_267_392, 227_562),
    (7, 2, 4): (22_934_528, 461_386),
    (7, 3, 2): (19_297_280, 340_010),
    (7, 3, 4): (33_059_840, 751_562),
}


def counted(kernel_size: int, depth: int, width: int) -> tuple[int, int]:
    """Count MACs at 32 pixels and parameters by hand, layer by layer."""
    macs, params = 32**2 * 27 * 32, 27 * 32 + 2 * 32  # stem
    macs += 16**2 * (9 * 32 + 32 * 64)  # separable convolution
    params += 9 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    channels, side = 64, 16
    for _ in range(depth):
        middle = channels * width
        hidden = middle // 4  # of squeeze-excite; all are multiples of 8
        macs += side**2 * channels * middle + 64 * kernel_size**2 * middle
        macs += 2 * middle * hidden + 64 * middle * 128
        params += (channels + 2) * middle + (kernel_size**2 + 2) * middle
        params += 2 * middle * hidden + hidden + middle + middle * 128 + 2 * 128
        channels, side = 128, 8
    macs += 64 * 128 * 512 + 512 * 10  # final layer, classifier
    return macs, params + 128 * 512 + 2 * 512 + 512 * 10 + 10


def arch_of(kernel_size: int, depth: int, width: float):
    return SPEC.space.uniform(kernel_size=kernel_size, depth=depth, expand_ratio=width)


@pytest.mark.parametrize("place", COSTS, ids=str)
def test_costs_of_the_eight_are_the_documented_ones(place: tuple[int, int, int]) -> None:
    arch = arch_of(*place)
    plan = SPEC.blueprint(arch)
    assert (count_macs(plan, resolution=32), count_params(plan)) == COSTS[place] == counted(*place)
    costs, rows = compile_costs(SPEC), Encoding(SPEC.space).from_archs([arch])
    assert (costs.macs(rows)[0], costs.params(rows)[0]) == COSTS[place]


def test_the_layers_are_the_documented_ones() -> None:
    stem, fixed, *blocks = SPEC.blueprint(SPEC.space.largest).layers
    *blocks, final, _, classifier = blocks
    assert (stem.out_channels, stem.stride, fixed.out_channels, fixed.stride) == (32, 1, 64, 2)
    assert [block.out_channels for block in blocks] == [128, 128, 128]
    assert [block.se_channels > 0 for block in blocks] == [True] * 3
    # A residual where the shape stays, whatever the expand ratio.
    assert [block.residual for block in blocks] == [False, True, True]
    assert (final.out_channels, classifier.in_features, classifier.out_features) == (512, 512, 10)


def test_its_space_is_uniform_and_lists_the_eight() -> None:
    space = SPEC.space
    everything = {arch_of(*place) for place in COSTS}
    assert space.size == 8 == len(everything)
    assert {space.sample(random.Random(i)) for i in range(100)} == everything
    assert set(grid_archs(space).values()) == everything
    assert {*space.neighbours(space.smallest)} == {
        arch_of(7, 2, 2), arch_of(5, 3, 2), arch_of(5, 2, 4)
    }  # fmt: skip
    # By blocks it has 80.
    by_block = replace(SPEC, is_uniform=False).space
    assert by_block.size == 80
    mixed = by_block.sample(random.Random(0))
    with pytest.raises(ArchError, match="a uniform space has one for the whole network"):
        space.check(mixed)
    assert spec_from_json(spec_to_json(SPEC)) == SPEC


def test_rows_of_a_uniform_space_are_its_archs() -> None:
    encoding = Encoding(SPEC.space)
    rows = encoding.unique(encoding.sample(200, np.random.default_rng(0)))
    archs = encoding.to_archs(rows)
    assert len(archs) == 8 == len(set(archs))
    assert np.array_equal(encoding.from_archs(archs), rows)
    by_block = Encoding(replace(SPEC, is_uniform=False).space)
    assert by_block.to_archs(by_block.from_archs(archs)) == archs


def test_any_table_whose_places_agree_may_be_uniform() -> None:
    spec = replace(mobilenet_v3(resolutions=(32, 64)), is_uniform=True)
    assert spec.space.size == 2 * 3**3
    costs, encoding = compile_costs(spec), Encoding(spec.space)
    arch = spec.space.sample(random.Random(3))
    rows = encoding.from_archs([arch])
    assert costs.macs(rows)[0] == count_macs(spec.blueprint(arch), resolution=arch.resolution)
    with pytest.raises(ArchError, match="the same options everywhere"):
        replace(resnet50d().space, is_uniform=True)


def test_published_names() -> None:
    torch.manual_seed(0)
    net = onceforall.OFANet(
        num_units=1, in_channels=3, num_classes=10, max_width=4, max_depth=3, max_kernel_size=7
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    for kernel_size, depth, width in itertools.product((5, 7), (2, 3), (2, 4)):
        plain = net.fixed_subnet(kernel_size=kernel_size, depth=depth, width=width)
        assert torch.equal(plain(images), net(images, net.arch(kernel_size, depth, width)))
        assert not [name for name in plain.state_dict() if "transform" in name]
        params = COSTS[kernel_size, depth, width][1]
        assert sum(parameter.numel() for parameter in plain.parameters()) == params
    with pytest.raises(ArchError, match=r"kernel_size 3 is not one of \(5, 7\)"):
        net.fixed_subnet(kernel_size=3, depth=2, width=2)


def test_its_size_is_a_setting() -> None:
    net = onceforall.OFANet(
        num_units=2, in_channels=1, num_classes=3, max_width=3, max_depth=1, max_kernel_size=3
    ).eval()
    assert net.space.size == 2 and net.arch(width=1.5) == net.space.smallest
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    with pytest.raises(ConfigError, match="num_units 0"):
        onceforall.OFANet(num_units=0)


def test_a_grid_may_choose_options_and_names_the_archs() -> None:
    grid = grid_archs(SPEC.space, {"kernel_size": (7,), "expand_ratio": (2, 4)})
    assert list(grid) == ["R32-D2-E2-K7", "R32-D2-E4-K7", "R32-D3-E2-K7", "R32-D3-E4-K7"]
    assert grid["R32-D3-E2-K7"] == arch_of(7, 3, 2)
    with pytest.raises(ArchError, match=r"depth 4 is not one of \(2, 3\)"):
        grid_archs(SPEC.space, {"depth": (4,)})
    with pytest.raises(ArchError, match="no width_mult is elastic"):
        grid_archs(SPEC.space, {"width_mult": (0.5,)})
    # Where stages offer different depths, the places go together.
    deep = grid_archs(resnet50d().space, {"depth": (2,), "resolution": (224,)})
    assert {arch.depth for arch in deep.values()} == {(2, 2, 4, 2)}
