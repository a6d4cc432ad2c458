"""Plain blocks, as they ship; ``elastic_blocks.py`` has their elastic twins.

Both twins have the same sub-module names, so that extraction is a walk over pairs.

Shape suffixes: B batch, C channels, H/W height/width.
"""

from __future__ import annotations

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
from onceforall.ops.dense import SqueezeExcite
from onceforall.ops.depthwise import DepthwiseConv2d
from onceforall.ops.functional import activate, spatial_mean
from onceforall.supernets.units import (
    bottleneck_units,
    fused_units,
    mbconv_units,
    residual_units,
    shortcut_unit,
)


class ConvUnit(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, layer: Conv, norm: Blueprint) -> None:
        super().__init__()
        self.activation = str(layer.activation)
        self.residual = layer.residual
        self.conv = _convolution(layer)
        self.bn = _batch_norm(layer.out_channels, norm) if layer.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the layer's output."""
        y: Tensor = activate(self.bn(self.conv(x)), self.activation)
        return x + y if self.residual else y


def _convolution(layer: Conv) -> nn.Conv2d:
    side, stride, bias = layer.kernel_size, layer.stride, layer.bias
    if 1 < layer.groups == layer.in_channels == layer.out_channels:
        return DepthwiseConv2d(layer.out_channels, side, stride=stride, bias=bias)
    widths = layer.in_channels, layer.out_channels
    return nn.Conv2d(*widths, side, stride, side // 2, groups=layer.groups, bias=bias)


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
        self.pool = shortcut_pool(layer)
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
        self.pool = shortcut_pool(layer)
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
        return spatial_mean(x)


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


def shortcut_pool(layer: Bottleneck | Residual) -> nn.Module:
    """Return the average pool of a ResNet-D shortcut, or nothing."""
    if layer.downsample == "avgpool_conv":
        return nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True)
    return nn.Identity()


def _batch_norm(channels: int, norm: Blueprint) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=norm.norm_eps, momentum=norm.norm_momentum)
