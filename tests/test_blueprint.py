"""Blueprints: sizes as PyTorch computes them, shapes that must fit, and JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    GlobalPool,
    Identity,
    Linear,
    MaxPool,
    MBConv,
    Residual,
    blueprint_from_json,
    blueprint_to_json,
    make_divisible,
    output_size,
)
from onceforall.errors import BlueprintError, ConfigError
from onceforall.supernets import families

STEM = Conv(in_channels=3, out_channels=8, kernel_size=3, stride=2)
BLOCK = MBConv(in_channels=8, mid_channels=16, out_channels=8, kernel_size=3)
PLAN = Blueprint(
    stem=(STEM,),
    blocks=(BLOCK,),
    head=(GlobalPool(), Linear(in_features=8, out_features=5)),
    stage_sizes=(1,),
)
FAMILIES = [
    families.mobilenet_v3(num_classes=7),
    families.proxylessnas(num_classes=7),
    families.resnet50d(num_classes=7),
    families.small_images(num_classes=7),
]


@given(size=st.integers(1, 64), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 3))
def test_sizes_are_those_of_pytorch(size: int, kernel: int, stride: int) -> None:
    layer = Conv(in_channels=1, out_channels=1, kernel_size=kernel, stride=stride)
    conv = nn.Conv2d(1, 1, kernel, stride=stride, padding=kernel // 2)
    assert output_size(layer, size) == conv(torch.zeros(1, 1, size, size)).shape[-1]
    block = replace(BLOCK, kernel_size=kernel, stride=stride)
    assert output_size(block, size) == output_size(layer, size)


def test_pools_and_heads_have_a_size_too() -> None:
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    for size in range(1, 20):
        assert output_size(MaxPool(), size) == pool(torch.zeros(1, 1, size, size)).shape[-1]
        assert output_size(Identity(), size) == size
        assert output_size(GlobalPool(), size) == 1
        assert output_size(Linear(in_features=2, out_features=2), size) == 1


@given(st.floats(0, 5000), st.sampled_from([1, 4, 8, 16]))
def test_widths_are_rounded_to_a_multiple_and_hardly_down(value: float, divisor: int) -> None:
    made = make_divisible(value, divisor)
    assert made % divisor == 0 and made >= divisor
    assert made >= 0.9 * value
    assert made <= max(divisor, value + divisor)


def test_published_widths_come_out() -> None:
    # MobileNetV3-Large at width 1.2, and the squeeze-excite widths of three of its blocks.
    assert [make_divisible(1.2 * w) for w in (16, 24, 40, 80, 112, 160)] == [
        24, 32, 48, 96, 136, 192
    ]  # fmt: skip
    assert [make_divisible(mid // 4) for mid in (72, 120, 960)] == [24, 32, 240]
    assert make_divisible(3) == 8
    assert make_divisible(90) == 88, "by less than a tenth"
    assert make_divisible(11) == 16, "8 would be more than a tenth less"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_sizes": (2,)}, r"stage sizes \(2,\) do not add up to 1 blocks"),
        ({"stem": ()}, None),
        ({"stem": (replace(STEM, out_channels=4),)}, "follows a layer with 4 output channels"),
        ({"head": (Linear(in_features=9, out_features=5),)}, "with 8 output channels"),
        ({"blocks": ("MBConv",)}, "'MBConv' is not a layer"),
    ],
)
def test_layers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert replace(PLAN, **changes).layers == PLAN.layers[1:]
        return
    with pytest.raises(BlueprintError, match=message):
        replace(PLAN, **changes)


@pytest.mark.parametrize(
    ("layer", "changes", "message"),
    [
        (STEM, {"kernel_size": 4}, "Conv: kernel_size 4 is not odd"),
        (STEM, {"stride": 0}, "Conv: stride 0"),
        (BLOCK, {"in_channels": 0}, "MBConv: in_channels 0"),
        (Bottleneck(in_channels=4, mid_channels=2, out_channels=4), {"stride": 2}, "keeps its"),
        (Residual(in_channels=4, mid_channels=2, out_channels=4), {"out_channels": 8}, "keeps its"),
    ],
)
def test_impossible_layers_are_refused(layer: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        replace(layer, **changes)


def test_the_number_of_classes_is_that_of_the_last_layer() -> None:
    assert PLAN.num_classes == 5
    with pytest.raises(BlueprintError, match="the last layer must be Linear"):
        _ = replace(PLAN, head=(GlobalPool(),)).num_classes


@pytest.mark.parametrize("spec", FAMILIES, ids=lambda spec: type(spec).__name__)
def test_every_family_survives_json(spec: Any) -> None:
    for arch in (spec.space.smallest, spec.space.largest):
        plan = spec.blueprint(arch)
        assert blueprint_from_json(json.loads(json.dumps(blueprint_to_json(plan)))) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: {"type": "Conv", "in_channels": 3}, "record Conv: .*missing"),
        (lambda value: value["stem"][0], "record Conv is not a blueprint"),
        (lambda value: {**value, "stage_sizes": [1.0]}, r"stage_sizes \(1.0,\) is not"),
        (lambda value: {**value, "norm_eps": "small"}, "norm_eps 'small' is not float"),
        (lambda value: {**value, "blocks": [7]}, r"blocks \(7,\) is not|7 is not a layer"),
        (
            lambda value: {**value, "stem": [{**value["stem"][0], "stride": "2"}]},
            "stride '2' is not int",
        ),
    ],
)
def test_damaged_json_is_refused(change: Any, message: str) -> None:
    value = json.loads(json.dumps(blueprint_to_json(PLAN)))
    with pytest.raises((ConfigError, BlueprintError), match=message):
        blueprint_from_json(change(value))
