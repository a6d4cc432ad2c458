"""Elastic blocks: one weight for every width and kernel; ``blocks.py`` has their plain twins.

An elastic block is told which layer to be by the blueprint's record of it.

Shape suffixes: B batch, C channels, H/W height/width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    FusedMBConv,
    Linear,
    MBConv,
    Residual,
)
from onceforall.errors import BlueprintError
from onceforall.ops.conv import ElasticConv2d, ElasticDepthwiseConv2d
from onceforall.ops.dense import ElasticLinear, ElasticSqueezeExcite
from onceforall.ops.functional import activate, banded_order, channel_importance
from onceforall.ops.norm import ElasticBatchNorm2d
from onceforall.supernets.blocks import shortcut_pool
from onceforall.supernets.units import (
    bottleneck_units,
    fused_units,
    mbconv_units,
    residual_units,
    shortcut_unit,
)


class ElasticConvUnit(nn.Module):
    """Elastic convolution, batch norm, activation."""

    def __init__(self, largest: Conv, norm: Blueprint) -> None:
        super().__init__()
        if largest.groups != 1:
            raise BlueprintError(f"an elastic convolution has 1 group, not {largest.groups}")
        self.conv = ElasticConv2d(
            largest.in_channels,
            largest.out_channels,
            largest.kernel_size,
            stride=largest.stride,
            bias=largest.bias,
        )
        self.bn = _elastic_norm(largest.out_channels, norm) if largest.norm else None

    def forward(self, x: Tensor, layer: Conv) -> Tensor:
        """Run as ``layer`` on ``(B, C, H, W)``."""
        y = self.conv(x, layer.out_channels)
        if self.bn is not None:
            y = self.bn(y)
        y = activate(y, layer.activation)
        return x + y if layer.residual else y


class ElasticDepthwiseUnit(nn.Module):
    """Elastic depthwise convolution, batch norm, activation."""

    def __init__(self, largest: Conv, kernel_sizes: tuple[int, ...], norm: Blueprint) -> None:
        super().__init__()
        self.conv = ElasticDepthwiseConv2d(
            largest.out_channels, kernel_sizes, stride=largest.stride
        )
        self.bn = _elastic_norm(largest.out_channels, norm)

    def forward(self, x: Tensor, layer: MBConv, weight_C1KK: Tensor | None = None) -> Tensor:
        """Run with the kernel size and activation of ``layer``."""
        # Nested on purpose: the activation reuses the memory that the convolution wrote to.
        return activate(self.bn(self.conv(x, layer.kernel_size, weight_C1KK)), layer.activation)


class ElasticMBConvBlock(nn.Module):
    """Inverted bottleneck whose widths, kernel size and expansion are chosen per call.

    Args:
        largest: Record of the largest choice.
        kernel_sizes: Kernel sizes on offer.
        norm: Blueprint that holds the batch-norm constants.
    """

    def __init__(self, largest: MBConv, kernel_sizes: tuple[int, ...], norm: Blueprint) -> None:
        super().__init__()
        expand, depthwise, project = mbconv_units(largest)
        self.inverted_bottleneck = ElasticConvUnit(expand, norm) if largest.has_expansion else None
        self.depth_conv = ElasticDepthwiseUnit(depthwise, kernel_sizes, norm)
        self.se = (
            ElasticSqueezeExcite(largest.mid_channels, largest.se_channels)
            if largest.se_channels
            else None
        )
        self.point_linear = ElasticConvUnit(project, norm)

    def depthwise_weight(self, layer: MBConv) -> Tensor:
        """Return the depthwise filters ``(C, 1, K, K)`` that run as ``layer``."""
        return self.depth_conv.conv.active_weight(layer.mid_channels, layer.kernel_size)

    def forward(self, x: Tensor, layer: MBConv, weight_C1KK: Tensor | None = None) -> Tensor:
        """Run as ``layer`` on ``(B, C, H, W)``.

        Args:
            x: Input.
            layer: What to be.
            weight_C1KK: What :meth:`depthwise_weight` returns, where it is at hand already.
        """
        y = x
        if self.inverted_bottleneck is not None:
            y = activate(_normed(self.inverted_bottleneck, y, layer.mid_channels), layer.activation)
        y = self.depth_conv(y, layer, weight_C1KK)
        if self.se is not None:
            y = self.se(y, layer.se_channels)
        y = _normed(self.point_linear, y, layer.out_channels)
        return x + y if layer.residual else y

    @torch.no_grad()
    def sort_channels(self, widths: Sequence[int], num_opened: int) -> None:
        """Permute the middle channels by importance; the largest block computes the same.

        Args:
            widths: Middle widths on offer, largest first.
            num_opened: How many smaller widths are trained already (see ``banded_order``).
        """
        if self.inverted_bottleneck is None:
            return  # the middle channels are the input's, which other blocks share
        project = self.point_linear.conv
        order = banded_order(channel_importance(project.weight), widths, num_opened)
        project.weight.copy_(project.weight[:, order])
        _permute_outputs(self.depth_conv, order)
        _permute_outputs(self.inverted_bottleneck, order)
        if self.se is not None:
            expand, reduce = self.se.expand, self.se.reduce
            _permute(expand, order)
            reduce.weight.copy_(reduce.weight[:, order])
            hidden = banded_order(channel_importance(expand.weight), (), 0)
            expand.weight.copy_(expand.weight[:, hidden])
            _permute(reduce, hidden)


class ElasticBottleneckBlock(nn.Module):
    """ResNet bottleneck whose widths and expansion are chosen per call."""

    def __init__(self, largest: Bottleneck, norm: Blueprint) -> None:
        super().__init__()
        units = bottleneck_units(largest)
        self.conv1 = ElasticConvUnit(units[0], norm)
        self.conv2 = ElasticConvUnit(units[1], norm)
        self.conv3 = ElasticConvUnit(units[2], norm)
        self.pool = shortcut_pool(largest)
        self.downsample = (
            None if largest.downsample == "none" else ElasticConvUnit(shortcut_unit(largest), norm)
        )

    def forward(self, x: Tensor, layer: Bottleneck) -> Tensor:
        """Run as ``layer`` on ``(B, C, H, W)``."""
        y = activate(_normed(self.conv1, x, layer.mid_channels), layer.activation)
        y = activate(_normed(self.conv2, y, layer.mid_channels), layer.activation)
        y = _normed(self.conv3, y, layer.out_channels)
        shortcut = x
        if self.downsample is not None:
            shortcut = _normed(self.downsample, self.pool(x), layer.out_channels)
        return activate(y + shortcut, layer.activation)

    @torch.no_grad()
    def sort_channels(self, widths: Sequence[int], num_opened: int) -> None:
        """Permute both middle widths by importance; the largest block computes the same."""
        _sort_between(self.conv2, self.conv3, widths, num_opened)
        _sort_between(self.conv1, self.conv2, widths, num_opened)


class ElasticResidualBlock(nn.Module):
    """Plain residual block whose widths are chosen per call."""

    def __init__(self, largest: Residual, norm: Blueprint) -> None:
        super().__init__()
        units = residual_units(largest)
        self.conv1 = ElasticConvUnit(units[0], norm)
        self.conv2 = ElasticConvUnit(units[1], norm)
        self.pool = shortcut_pool(largest)
        self.downsample = (
            None if largest.downsample == "none" else ElasticConvUnit(shortcut_unit(largest), norm)
        )

    def forward(self, x: Tensor, layer: Residual) -> Tensor:
        """Run as ``layer`` on ``(B, C, H, W)``."""
        y = activate(_normed(self.conv1, x, layer.mid_channels), layer.activation)
        y = _normed(self.conv2, y, layer.out_channels)
        shortcut = x
        if self.downsample is not None:
            shortcut = _normed(self.downsample, self.pool(x), layer.out_channels)
        return activate(y + shortcut, layer.activation)

    @torch.no_grad()
    def sort_channels(self, widths: Sequence[int], num_opened: int) -> None:
        """Permute the middle channels by importance; the largest block computes the same."""
        _sort_between(self.conv1, self.conv2, widths, num_opened)


class ElasticFusedMBConvBlock(nn.Module):
    """Fused inverted bottleneck whose widths are chosen per call."""

    def __init__(self, largest: FusedMBConv, norm: Blueprint) -> None:
        super().__init__()
        expand, project = fused_units(largest)
        self.expand = ElasticConvUnit(expand, norm)
        self.point_linear = ElasticConvUnit(project, norm)

    def forward(self, x: Tensor, layer: FusedMBConv) -> Tensor:
        """Run as ``layer`` on ``(B, C, H, W)``."""
        y = activate(_normed(self.expand, x, layer.mid_channels), layer.activation)
        y = _normed(self.point_linear, y, layer.out_channels)
        return x + y if layer.residual else y

    @torch.no_grad()
    def sort_channels(self, widths: Sequence[int], num_opened: int) -> None:
        """Permute the middle channels by importance; the largest block computes the same."""
        _sort_between(self.expand, self.point_linear, widths, num_opened)


class ElasticClassifier(nn.Module):
    """Dropout and a fully connected layer on however many features come."""

    def __init__(self, largest: Linear) -> None:
        super().__init__()
        self.dropout = nn.Dropout(largest.dropout)
        self.linear = ElasticLinear(largest.in_features, largest.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, 1, 1)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


def _elastic_norm(channels: int, norm: Blueprint) -> ElasticBatchNorm2d:
    return ElasticBatchNorm2d(channels, eps=norm.norm_eps, momentum=norm.norm_momentum)


def _normed(unit: ElasticConvUnit, x: Tensor, out_channels: int) -> Tensor:
    y = unit.conv(x, out_channels)
    return y if unit.bn is None else unit.bn(y)  # type: ignore[no-any-return]


def _sort_between(
    leading: ElasticConvUnit, following: ElasticConvUnit, widths: Sequence[int], num_opened: int
) -> None:
    """Permute the channels between two convolutions by importance to the second one."""
    weight = following.conv.weight
    order = banded_order(channel_importance(weight), widths, num_opened)
    weight.copy_(weight[:, order])
    _permute_outputs(leading, order)


def _permute(conv: nn.Conv2d, order: Tensor) -> None:
    """Permute the outputs of a plain convolution with bias."""
    conv.weight.copy_(conv.weight[order])
    if conv.bias is not None:
        conv.bias.copy_(conv.bias[order])


def _permute_outputs(unit: ElasticConvUnit | ElasticDepthwiseUnit, order: Tensor) -> None:
    """Permute the output channels of a convolution and everything its batch norm keeps."""
    unit.conv.weight.copy_(unit.conv.weight[order])
    norm = unit.bn
    if norm is not None:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[order])
