"""Plain networks: static families, and scripting, tracing and exporting them."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from onceforall.blueprint import Blueprint, Conv, Linear, MBConv
from onceforall.errors import BlueprintError
from onceforall.measure.costs import count_params
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.static_families import (
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet50d,
)
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.entries import zoo_entries
from tests.supernets.families import SPECS

EXTRACTED = ["mbv3_w1.0", "small_resnet", "mixed_head", "residual"]


def extracted(name: str) -> tuple[StaticNet, torch.Tensor]:
    torch.manual_seed(0)
    net = Supernet(SPECS[name]())
    plain = net.extract(net.space.sample(random.Random(0)))
    return plain, torch.randn(2, 3, 32, 32)


# PyTorch has begun to deprecate TorchScript; as long as it is there, our networks work with it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", EXTRACTED)
def test_extracted_networks_can_be_scripted_and_traced(name: str) -> None:
    plain, x = extracted(name)
    scripted, traced = torch.jit.script(plain), torch.jit.trace(plain, x)
    with torch.no_grad():
        y = plain(x)
        for _ in range(2):  # optimised from the second call on
            torch.testing.assert_close(scripted(x), y, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(traced(x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EXTRACTED)
def test_extracted_networks_can_be_exported_with_a_free_batch_size(name: str) -> None:
    plain, x = extracted(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(plain, (x,), dynamic_shapes=(batch,), strict=False)
    more = torch.cat([x, x, x])
    with torch.no_grad():
        assert torch.equal(program.module()(more), plain(more))


@pytest.mark.parametrize(
    "plan",
    [mobilenet_v3_large(num_classes=7), mobilenet_v2(num_classes=7), resnet50(num_classes=7),
     resnet50d(num_classes=7), zoo_entries()["proxyless_cpu"].blueprint(num_classes=7)],
    ids=["mobilenet_v3_large", "mobilenet_v2", "resnet50", "resnet50d", "proxyless_cpu"],
)  # fmt: skip
def test_static_families_run(plan: Blueprint) -> None:
    net = build(plan)
    assert plan.num_classes == 7
    assert sum(p.numel() for p in net.parameters()) == count_params(plan)
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_overrides_of_mobilenet_v3() -> None:
    widths = [24, 40, 80, 112, 160]
    plan = mobilenet_v3_large(kernel_size=5, expand_ratio=4, depth=3, stage_widths=widths)
    assert plan.stage_sizes == (1, 3, 3, 3, 3, 3)
    blocks = [block for block in plan.blocks[1:] if isinstance(block, MBConv)]
    assert {block.kernel_size for block in blocks} == {5}
    assert all(block.mid_channels == 4 * block.in_channels for block in blocks)
    assert plan.blocks[0].kernel_size == 3
    # Depth copies the last row: the table's own widths stay where no ratio is given.
    table = mobilenet_v3_large(depth=3)
    assert [b.mid_channels for b in table.blocks[7:10]] == [240, 184, 184]
    wide = mobilenet_v3_large(width_mult=1.2)
    assert wide.head[-1].in_features == 1536
    narrow = mobilenet_v3_large(width_mult=0.5)
    assert narrow.head[-1].in_features == 1280
    with pytest.raises(BlueprintError, match="stage_widths has 2 entries where 5 are needed"):
        mobilenet_v3_large(stage_widths=[1, 2])


def test_overrides_of_mobilenet_v2() -> None:
    plan = mobilenet_v2(kernel_size=7, expand_ratio=3, depth=2)
    assert plan.stage_sizes == (1, 2, 2, 2, 2, 2, 1)
    assert {b.kernel_size for b in plan.blocks[1:]} == {7}
    assert plan.norm_eps == 1e-3


def test_the_published_stems_and_strides_of_the_resnets() -> None:
    plan = resnet50()
    stem = plan.stem[0]
    assert isinstance(stem, Conv)
    assert (stem.kernel_size, stem.stride) == (7, 2)
    assert {b.downsample for b in plan.blocks} == {"conv", "none"}
    plan = resnet50d()
    assert [s.residual for s in plan.stem if isinstance(s, Conv)] == [False, True, False]
    assert {b.downsample for b in plan.blocks} == {"avgpool_conv", "none"}
    assert plan.stage_sizes == (3, 4, 6, 3)


def test_dropout_is_where_the_blueprint_says() -> None:
    plan = mobilenet_v3_large(dropout=0.3)
    last = plan.head[-1]
    assert isinstance(last, Linear)
    assert last.dropout == 0.3
    assert build(plan).head[-1].dropout.p == 0.3
