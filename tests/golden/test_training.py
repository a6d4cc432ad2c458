"""Training-mode behaviour, gradients, channel sorting, filters and BN recalibration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from onceforall.measure.calibrate import recalibrate_bn
from onceforall.ops.functional import banded_order, center_crop, channel_importance
from onceforall.published_archs import arch_from_published
from onceforall.supernets.supernet import Supernet
from tests.golden.conftest import filled_supernet
from tests.golden.recipe import images

Filled = Callable[[str], Supernet]
BLOCK_1 = 2  # position of the published blocks.1: after the stem and blocks.0


def close(value: torch.Tensor | float, expected: float, decimals: int = 6) -> bool:
    """Compare with a printed value: half a unit of its last digit, and 1e-6 relative."""
    number = value.item() if isinstance(value, torch.Tensor) else value
    return number == pytest.approx(expected, rel=1e-6, abs=0.6 * 10**-decimals)


def all_close(values: torch.Tensor, *expected: float, decimals: int = 7) -> bool:
    return all(close(v, e, decimals) for v, e in zip(values, expected, strict=True))


def test_bn_recalibration_gives_the_published_statistics_and_logits() -> None:
    net = filled_supernet("mbv3_w1.0")
    arch = arch_from_published(net.space, {"ks": 5, "e": 4, "d": 3})
    x = images(6, 3, 64, 64)
    recalibrate_bn(net, [x[:4], 1.5 * x[4:, :, :48, :48]], arch=arch, estimator="published")
    state = net.published_state_dict()
    stem = "first_conv.bn.running_"
    assert all_close(state[stem + "mean"][:3], 0.0102717, 0.0006349, 0.0037090)
    assert all_close(state[stem + "var"][:3], 0.9918611, 0.7676540, 0.8657490)
    expand = "blocks.1.conv.inverted_bottleneck.bn.bn.running_"
    mean, var = state[expand + "mean"], state[expand + "var"]
    assert all_close(mean[:3], 0.1163052, 0.0694403, 0.0958584)
    assert all_close(var[:3], 1.2263665, 1.5093656, 2.4731195)
    assert len(mean) == 96
    assert close(mean.sum(), 1.451576)
    assert close(var.sum(), 196.985842)
    assert all_close(mean[64:66], 0.008330, -0.053889, decimals=6)  # untouched tail
    project = "blocks.19.conv.point_linear.bn.bn."
    assert all_close(state[project + "running_mean"][:3], 0.1340049, 0.1460565, -0.2386082)
    assert all_close(state[project + "running_var"][:3], 0.0882498, 0.1067029, 0.1046848)
    assert state[project + "num_batches_tracked"] == 0
    with torch.no_grad():
        y = net(x[:2], arch)
    assert all_close(y[0, :4], -3.663299, 10.545420, -10.423544, 1.187944, decimals=6)
    assert close(y.sum(), 122.343458)
    assert close(y.abs().mean(), 4.7769349, 7)


def test_a_training_forward_normalises_by_the_batch_and_moves_the_statistics_that_ran() -> None:
    net = filled_supernet("mbv3_w1.0").train()
    arch = arch_from_published(net.space, {"ks": 5, "e": 4, "d": 3})
    with torch.no_grad():
        y = net(images(2, 3, 64, 64), arch)
    assert all_close(y[0, :4], -0.080720, 0.060376, -0.083779, 0.117235, decimals=6)
    assert close(y.sum(), -4.535052)
    state = net.published_state_dict()
    bn = "blocks.1.conv.inverted_bottleneck.bn.bn."
    mean, var = state[bn + "running_mean"], state[bn + "running_var"]
    assert all_close(mean[:3], -0.0198490, -0.0600010, 0.0187068)
    assert all_close(var[:3], 0.8231802, 0.7261531, 0.8461241)
    assert state[bn + "num_batches_tracked"] == 1
    assert all_close(mean[64:66], 0.008330, -0.053889, decimals=6)


def test_gradients_are_the_published_ones() -> None:
    net = filled_supernet("mbv3_w1.0").train()
    arch = arch_from_published(net.space, {"ks": 3, "e": 3, "d": 2})
    logits = net(images(4, 3, 64, 64), arch)
    loss = F.cross_entropy(logits, torch.tensor([1, 2, 3, 4]), label_smoothing=0.1)
    loss.backward()
    assert close(loss, 6.96744868, 8)
    block = net.layers[BLOCK_1]
    transforms = block.depth_conv.conv.transforms
    assert close(transforms["7to5"].grad.sum(), 0.8771209, 7)
    assert close(transforms["5to3"].grad.sum(), 1.025017)
    expand = block.inverted_bottleneck.conv.weight.grad
    assert expand[:48].abs().sum() > 0
    assert (expand[48:] == 0).all()
    assert all(p.grad is None for p in net.layers[BLOCK_1 + 2].parameters())  # switched off


SORTED = {  # widths opened: {expand ratio: (sum, mean abs)}, all at ks7 d4
    0: {4: (-80.443583, 4.0243843), 3: (-7.208425, 0.0774082)},
    1: {4: (170.648773, 2.8916169), 3: (-11.303932, 0.3114764)},
    2: {4: (170.648773, 2.8916169), 3: (-5.560165, 0.0728157)},
}


@pytest.mark.parametrize("num_opened", SORTED)
@torch.no_grad()
def test_sorting_channels_gives_the_published_subnets(filled: Filled, num_opened: int) -> None:
    net = filled_supernet("mbv3_w1.0")
    x = images(2, 3, 64, 64)
    net.sort_channels(num_opened=num_opened)
    largest = net.space.largest
    torch.testing.assert_close(net(x, largest), filled("mbv3_w1.0")(x, largest), rtol=0, atol=4e-11)
    for ratio, (total, mean_abs) in SORTED[num_opened].items():
        y = net(x, net.space.uniform(expand_ratio=ratio))
        assert close(y.sum(), total)
        assert close(y.abs().mean(), mean_abs, 7)


@pytest.mark.parametrize(("num_opened", "total"), [(0, 1787.913261), (1, 1344.267763)])
@torch.no_grad()
def test_sorting_bottleneck_channels_gives_the_published_subnets(
    num_opened: int, total: float
) -> None:
    net = filled_supernet("resnet50")
    net.sort_channels(num_opened=num_opened)
    y = net(images(2, 3, 64, 64), net.space.uniform(expand_ratio=0.2))
    assert close(y.sum(), total)


def test_channels_are_ordered_by_the_published_importance(filled: Filled) -> None:
    importance = channel_importance(filled("mbv3_w1.0").layers[BLOCK_1].point_linear.conv.weight)
    assert all_close(importance[:3], 2.455051, 3.447006, 3.237766, decimals=6)
    order = banded_order(importance, (96, 64, 48), 0)
    assert order[:10].tolist() == [3, 22, 40, 61, 26, 66, 42, 93, 52, 1]


@torch.no_grad()
def test_smaller_kernels_are_the_published_filters(filled: Filled) -> None:
    conv = filled("mbv3_w1.0").layers[BLOCK_1].depth_conv.conv
    kernels = {k: conv.active_weight(96, k) for k in (7, 5, 3)}
    assert close(kernels[7].sum(), 0.829817, 5)
    assert all_close(kernels[5].flatten()[:4], 0.317481, 0.285915, -0.228801, -0.062699, decimals=6)
    assert close(kernels[5].sum(), 0.309406, 5)
    assert all_close(
        kernels[3].flatten()[:4], -0.393149, 0.199917, -0.087451, -0.076767, decimals=6
    )
    assert close(kernels[3].sum(), -2.488464, 5)
    assert close(center_crop(kernels[7], 3).sum(), -2.376065, 5)
