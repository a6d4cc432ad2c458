"""Residual blocks: the plain ones that ship and their elastic twins.

Both twins have the same sub-module names, so that extraction is a walk over pairs. An elastic
block is told which layer to be by the blueprint's record of it.

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
from onceforall.ops.conv import ElasticConv2d, ElasticDepthwiseConv2d
from onceforall.ops.dense import ElasticLinear, ElasticSqueezeExcite, SqueezeExcite
from onceforall.ops.functional import activate, banded_order, channel_importance
from onceforall.ops.norm import ElasticBatchNorm2d

# -- plain modules --------------------------------------------------------------------------------


class ConvUnit(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, layer: Conv, norm: Blueprint) -> None:
        super().__init__()
        self.activation = str(layer.activation)
        self.residual = layer.residual
        self.conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.kernel_size // 2,
            groups=layer.groups,
            bias=layer.bias,
        )
        self.bn = _batch_norm(layer.out_channels, norm) if layer.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y: Tensor = activate(self.bn(self.conv(x)), self.activation)
        return x + y if self.residual else y


class MBConvBlock(nn.Module):
    """Inverted bottleneck with depthwise convolution and optional squeeze-excite."""

    def __init__(self, layer: MBConv, norm: Blueprint) -> None:
        super().__init__()
        self.residual = layer.residual
        expand, depthwise, project = mbconv_units(layer)
        self.inverted_bottleneck = ConvUnit(expand, norm) if layer.has_expansion else nn.Identity()
        self.depth_conv = ConvUnit(depthwise, norm)
        self.se = (
            SqueezeExcite(layer.mid_channels, layer.se_channels)
            if layer.se_channels
            else nn.Identity()
        )
        self.point_linear = ConvUnit(project, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y: Tensor = self.point_linear(self.se(self.depth_conv(self.inverted_bottleneck(x))))
        return x + y if self.residual else y


class BottleneckBlock(nn.Module):
    """ResNet bottleneck with its shortcut."""

    def __init__(self, layer: Bottleneck, norm: Blueprint) -> None:
        super().__init__()
        self.activation = str(layer.activation)
        units = bottleneck_units(layer)
        self.conv1 = ConvUnit(units[0], norm)
        self.conv2 = ConvUnit(units[1], norm)
        self.conv3 = ConvUnit(units[2], norm)
        self.pool = _shortcut_pool(layer)
        self.downsample = (
            nn.Identity() if layer.downsample == "none" else ConvUnit(shortcut_unit(layer), norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y = self.conv3(self.conv2(self.conv1(x)))
        return activate(y + self.downsample(self.pool(x)), self.activation)


class ResidualBlock(nn.Module):
    """Two dense convolutions with their shortcut."""

    def __init__(self, layer: Residual, norm: Blueprint) -> None:
        super().__init__()
        self.activation = str(layer.activation)
        units = residual_units(layer)
        self.conv1 = ConvUnit(units[0], norm)
        self.conv2 = ConvUnit(units[1], norm)
        self.pool = _shortcut_pool(layer)
        self.downsample = (
            nn.Identity() if layer.downsample == "none" else ConvUnit(shortcut_unit(layer), norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y = self.conv2(self.conv1(x))
        return activate(y + self.downsample(self.pool(x)), self.activation)


class FusedMBConvBlock(nn.Module):
    """Dense expansion and 1x1 projection."""

    def __init__(self, layer: FusedMBConv, norm: Blueprint) -> None:
        super().__init__()
        self.residual = layer.residual
        expand, project = fused_units(layer)
        self.expand = ConvUnit(expand, norm)
        self.point_linear = ConvUnit(project, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y: Tensor = self.point_linear(self.expand(x))
        return x + y if self.residual else y


class GlobalMean(nn.Module):
    """Mean over width, then height (the published order of summation), kept as a 1x1 map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, 1, 1)``."""
        return x.mean(3, keepdim=True).mean(2, keepdim=True)


class Classifier(nn.Module):
    """Dropout and a fully connected layer on the flattened input."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.dropout = nn.Dropout(layer.dropout)
        self.linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, 1, 1)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


# -- elastic twins --------------------------------------------------------------------------------


class ElasticConvUnit(nn.Module):
    """Elastic convolution, batch norm, activation."""

    def __init__(self, largest: Conv, norm: Blueprint) -> None:
        super().__init__()
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
        self.pool = _shortcut_pool(largest)
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
        self.pool = _shortcut_pool(largest)
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


# -- the units of a block, shared by both twins ---------------------------------------------------


def mbconv_units(layer: MBConv) -> tuple[Conv, Conv, Conv]:
    """Return the expand, depthwise and project convolutions of an inverted bottleneck."""
    mid = layer.mid_channels
    expand = Conv(in_channels=layer.in_channels, out_channels=mid, activation=layer.activation)
    depthwise = Conv(
        in_channels=mid,
        out_channels=mid,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        groups=mid,
        activation=layer.activation,
    )
    project = Conv(in_channels=mid, out_channels=layer.out_channels, activation="none")
    return expand, depthwise, project


def bottleneck_units(layer: Bottleneck) -> tuple[Conv, Conv, Conv]:
    """Return the three convolutions of a bottleneck."""
    mid = layer.mid_channels
    return (
        Conv(in_channels=layer.in_channels, out_channels=mid, activation=layer.activation),
        Conv(
            in_channels=mid,
            out_channels=mid,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            activation=layer.activation,
        ),
        Conv(in_channels=mid, out_channels=layer.out_channels, activation="none"),
    )


def residual_units(layer: Residual) -> tuple[Conv, Conv]:
    """Return the two convolutions of a plain residual block."""
    return (
        Conv(
            in_channels=layer.in_channels,
            out_channels=layer.mid_channels,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            activation=layer.activation,
        ),
        Conv(
            in_channels=layer.mid_channels,
            out_channels=layer.out_channels,
            kernel_size=layer.kernel_size,
            activation="none",
        ),
    )


def fused_units(layer: FusedMBConv) -> tuple[Conv, Conv]:
    """Return the dense expansion and the projection of a fused inverted bottleneck."""
    expand = Conv(
        in_channels=layer.in_channels,
        out_channels=layer.mid_channels,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        activation=layer.activation,
    )
    project = Conv(
        in_channels=layer.mid_channels, out_channels=layer.out_channels, activation="none"
    )
    return expand, project


def shortcut_unit(layer: Bottleneck | Residual) -> Conv:
    """Return the 1x1 convolution of a downsampling shortcut."""
    return Conv(
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        stride=layer.stride if layer.downsample == "conv" else 1,
        activation="none",
    )


def _shortcut_pool(layer: Bottleneck | Residual) -> nn.Module:
    if layer.downsample == "avgpool_conv":
        return nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True)
    return nn.Identity()


def _batch_norm(channels: int, norm: Blueprint) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=norm.norm_eps, momentum=norm.norm_momentum)


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
