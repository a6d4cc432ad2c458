"""The convolutions that a block is made of, as records: the same for the plain and elastic twin."""

from __future__ import annotations

from onceforall.blueprint import Bottleneck, Conv, FusedMBConv, MBConv, Residual


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
