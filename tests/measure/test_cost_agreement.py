"""One arch, one number: blueprint, population table and PyTorch's own counter agree."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from onceforall.arch import Arch
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.supernets.families import (
    dense_images,
    mobilenet_v3,
    proxylessnas,
    resnet50d,
    small_images,
)
from onceforall.supernets.static import build

SPECS = {
    "mobilenet_v3": mobilenet_v3(),
    "mobilenet_v3 of one size": mobilenet_v3(resolutions=(64,)),
    "proxylessnas": proxylessnas(),
    "resnet50d": resnet50d(),
    "small_images": small_images(num_classes=10),
    "residual": dense_images(num_classes=10, width_mults=(0.5, 1.0)),
    "fused_mbconv": dense_images(block="fused_mbconv", num_classes=10, expand_ratios=(1, 2, 4)),
}
TABLES = {name: compile_costs(spec) for name, spec in SPECS.items()}


@pytest.mark.parametrize("family", SPECS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_every_drawn_arch_has_one_cost(family: str, seed: int) -> None:
    spec, table = SPECS[family], TABLES[family]
    rng = random.Random(seed)
    arch = spec.space.sample(rng)
    arch = spec.space.crossover(spec.space.mutate(arch, rng), spec.space.sample(rng), rng)
    assert spec.space.contains(arch)
    assert Arch.from_json(arch.to_json()) == arch

    plan, side = spec.blueprint(arch), arch.resolution
    rows = table.encoding.from_archs([arch])
    assert table.encoding.to_archs(rows) == [arch]
    macs = count_macs(plan, resolution=side)
    assert int(table.macs(rows)[0]) == macs
    assert int(table.params(rows)[0]) == count_params(plan)
    peak = peak_activation_bytes(plan, resolution=side)
    assert int(table.peak_activation_bytes(rows)[0]) == peak

    with torch.device("meta"):
        module = build(plan).eval()
        images = torch.empty(1, 3, side, side)
    assert sum(p.numel() for p in module.parameters()) == count_params(plan)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(images)
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize("family", SPECS)
def test_costs_rise_with_every_axis(family: str) -> None:
    spec = SPECS[family]
    small, large = spec.space.smallest, spec.space.largest
    for cost in (count_macs, peak_activation_bytes):
        assert cost(spec.blueprint(small), resolution=small.resolution) < cost(
            spec.blueprint(large), resolution=large.resolution
        )
    assert count_params(spec.blueprint(small)) < count_params(spec.blueprint(large))
