"""Plain residual and fused blocks: their function, their costs, their files."""

from __future__ import annotations

import dataclasses
import random
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from onceforall.blueprint import Blueprint, Conv, FusedMBConv, GlobalPool, Linear, Residual
from onceforall.errors import BlueprintError, ConfigError
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.measure.onnx.model import blueprint_to_onnx, ort_session
from onceforall.records import record_from_json, record_to_json
from onceforall.supernets.families import dense_images
from onceforall.supernets.spec import MBConvStage
from onceforall.supernets.static import build_layer
from onceforall.supernets.static_spec import StaticSpec
from onceforall.supernets.supernet import Supernet


def plan_of(*blocks: Residual | FusedMBConv) -> Blueprint:
    first, last = blocks[0], blocks[-1]
    return Blueprint(
        stem=(Conv(in_channels=3, out_channels=first.in_channels, kernel_size=3),),
        blocks=blocks,
        head=(GlobalPool(), Linear(in_features=last.out_channels, out_features=10)),
        stage_sizes=(len(blocks),),
    )


def test_a_residual_block_is_what_it_says() -> None:
    layer = Residual(in_channels=8, mid_channels=6, out_channels=8)
    block = build_layer(layer, plan_of(layer)).eval()
    x = torch.randn(2, 8, 9, 9)
    conv1, conv2 = block.conv1.conv.weight, block.conv2.conv.weight
    eps = (1 + 1e-5) ** 0.5  # fresh batch norm in eval mode divides by it
    inner = F.relu(F.conv2d(x, conv1, padding=1) / eps)
    expected = F.relu(F.conv2d(inner, conv2, padding=1) / eps + x)
    torch.testing.assert_close(block(x), expected)


def test_a_fused_block_is_what_it_says() -> None:
    layer = FusedMBConv(in_channels=8, mid_channels=16, out_channels=8, residual=True)
    block = build_layer(layer, plan_of(layer)).eval()
    x = torch.randn(2, 8, 9, 9)
    eps = (1 + 1e-5) ** 0.5
    inner = F.relu(F.conv2d(x, block.expand.conv.weight, padding=1) / eps)
    expected = F.conv2d(inner, block.point_linear.conv.weight) / eps + x
    torch.testing.assert_close(block(x), expected)


def test_costs_by_formula() -> None:
    down = Residual(
        in_channels=8, mid_channels=12, out_channels=16, stride=2, downsample="avgpool_conv"
    )
    fused = FusedMBConv(in_channels=16, mid_channels=32, out_channels=24)
    plan = plan_of(down, fused)
    half = 5 * 5  # of 9 x 9 pixels with stride 2
    residual = (8 * 12 * 9 + 12 * 16 * 9 + 8 * 16) * half
    inverted = (16 * 32 * 9 + 32 * 24) * half
    assert count_macs(plan, resolution=9) == 3 * 8 * 9 * 81 + residual + inverted + 240
    weights = 3 * 8 * 9 + 8 * 12 * 9 + 12 * 16 * 9 + 8 * 16 + 16 * 32 * 9 + 32 * 24 + 250
    norms = 2 * (8 + 12 + 16 + 16 + 32 + 24)
    assert count_params(plan) == weights + norms
    # The first convolution of a block reads the input that waits: 8 maps of 9 x 9 in, 12 out.
    identity = Residual(in_channels=8, mid_channels=8, out_channels=8)
    assert peak_activation_bytes(plan_of(identity), resolution=9) == 4 * 3 * 8 * 81


@pytest.mark.parametrize("block", ["residual", "fused_mbconv"])
def test_the_onnx_file_computes_the_same(block: str) -> None:
    pytest.importorskip("onnxruntime")
    spec = dense_images(block=block, num_classes=10, widths=(8, 16, 24), stem_stride=2)  # type: ignore[arg-type]
    net = Supernet(spec)
    images = torch.randn(3, 3, 32, 32)
    arch = spec.space.sample(random.Random(1))
    for _ in range(3):
        net.train()(images, arch)
    plain = net.extract(arch)
    data = blueprint_to_onnx(plain.plan, plain, resolution=arch.resolution)
    small = F.interpolate(images, arch.resolution)
    (logits,) = ort_session(data).run(None, {"images": small.numpy()})
    np.testing.assert_allclose(logits, plain(small).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("block", ["residual", "fused_mbconv"])
def test_sorting_channels_leaves_the_largest_subnet_as_it_is(block: str) -> None:
    spec = dense_images(block=block, num_classes=10, widths=(8, 16, 24))  # type: ignore[arg-type]
    net = Supernet(spec).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = net(images, spec.space.largest)
    smallest = net(images, spec.space.smallest)
    net.sort_channels()
    torch.testing.assert_close(net(images, spec.space.largest), before)
    assert not torch.allclose(net(images, spec.space.smallest), smallest)


def test_dense_stages_have_one_kernel() -> None:
    with pytest.raises(
        BlueprintError, match=r"one kernel size and no squeeze-excite, got \(3, 5\)"
    ):
        MBConvStage(
            block="residual",
            width=8,
            stride=1,
            activation="relu",
            num_blocks=1,
            depths=(1,),
            kernel_sizes=(3, 5),
            expand_ratios=(1,),
        )


def test_an_identity_shortcut_keeps_its_shape() -> None:
    with pytest.raises(BlueprintError, match="identity shortcut keeps its shape"):
        Residual(in_channels=8, mid_channels=8, out_channels=16)


def test_ratios_that_round_to_one_width_are_sorted_as_ratios() -> None:
    """The one trained so far keeps its channels, also where a smaller ratio has other ones."""
    spec = dense_images(
        num_classes=3, resolutions=(8,), widths=(16,), strides=(1,), depths=(1,),
        expand_ratios=(0.25, 0.75, 1.0), stem_width=8, divisor=8,
    )  # fmt: skip
    net = Supernet(spec)
    (block,) = (layer for layer in net.layers if hasattr(layer, "sort_channels"))
    with mock.patch.object(type(block), "sort_channels") as sort:
        net.sort_channels(num_opened=1)
    assert sort.call_args.args == ([16, 16, 8], 1)


def test_a_classifier_without_a_bias_has_no_elastic_form() -> None:
    layer = Residual(in_channels=8, mid_channels=8, out_channels=8)
    plan = plan_of(layer)
    head = (*plan.head[:-1], dataclasses.replace(plan.head[-1], bias=False))
    spec = StaticSpec(
        name="one", plan=dataclasses.replace(plan, head=head), num_classes=10, resolutions=(8,)
    )
    with pytest.raises(BlueprintError, match="no elastic form of Linear"):
        Supernet(spec)


def test_a_block_that_is_misspelt_is_refused_with_those_that_there_are() -> None:
    wanted = r"MBConvStage: block 'residul' is not one of mbconv, .*residual"
    with pytest.raises(BlueprintError, match=wanted):
        MBConvStage(
            block="residul",  # type: ignore[arg-type]
            width=8,
            stride=1,
            activation="relu",
            num_blocks=1,
            depths=(1,),
            kernel_sizes=(3,),
            expand_ratios=(1,),
        )
    stage = record_to_json(dense_images(block="residual", num_classes=3).stages[0])
    with pytest.raises(ConfigError, match="block 'residul' is not one of mbconv"):
        record_from_json({**stage, "block": "residul"}, [MBConvStage])
