"""Exact costs of a static network: MACs, parameters and peak activation memory.

Every layer record is expanded once into primitive operations; all three costs are read from them.

- *MACs*: multiply-accumulates of convolutions and fully connected layers, batch 1, including the
  1x1 convolutions of squeeze-excite. Norms, activations, pooling, biases and additions are free.
- *Params*: weights and biases, and two for each batch-norm channel.
- *Peak activation memory*: batch 1, four bytes a number. Operations run one after the other; norm
  and activation are part of their convolution; scaling and addition write onto their first
  operand. While an operation runs, its operands, its result and every tensor that a later
  operation still reads (a shortcut) are alive; weights are not counted. The peak is the largest
  number of bytes alive at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn

from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    FusedMBConv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    Residual,
    output_size,
)
from onceforall.graph import Graph
from onceforall.measure.graph_costs import graph_at, graph_macs, graph_params, graph_peak_bytes
from onceforall.supernets.graphs.elasticize import traced_graph
from onceforall.supernets.static import StaticNet
from onceforall.supernets.units import (
    bottleneck_units,
    fused_units,
    mbconv_units,
    residual_units,
    shortcut_unit,
)

BYTES_PER_NUMBER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One primitive operation on a batch of one.

    Attributes:
        macs: Multiply-accumulates.
        params: Parameters, those of a fused norm included.
        live_numbers: Numbers in all tensors alive while it runs.
    """

    macs: int = 0
    params: int = 0
    live_numbers: int


def count_macs(plan: Blueprint | Graph | nn.Module, *, resolution: int) -> int:
    """Return the exact multiply-accumulates of one image.

    Args:
        plan: Static network: its blueprint or graph, or any module, which is traced.
        resolution: Side of the square input, in pixels.

    Raises:
        BlueprintError: If a module cannot be traced, or a graph is for another resolution.
    """
    plan = _plan_of(plan, resolution)
    if isinstance(plan, Graph):
        return graph_macs(graph_at(plan, resolution))
    return sum(layer_macs(layer, size) for layer, size, _ in sized_layers(plan, resolution))


def count_params(plan: Blueprint | Graph | nn.Module) -> int:
    """Return the exact number of parameters; running statistics are not parameters."""
    if isinstance(plan, nn.Module):
        return sum(parameter.numel() for parameter in plan.parameters())
    if isinstance(plan, Graph):
        return graph_params(plan)
    return sum(layer_params(layer) for layer in plan.layers)


def peak_activation_bytes(plan: Blueprint | Graph | nn.Module, *, resolution: int) -> int:
    """Return the largest number of activation bytes alive at once (fp32, batch 1).

    Args:
        plan: Static network: its blueprint or graph, or any module, which is traced.
        resolution: Side of the square input, in pixels.

    Raises:
        BlueprintError: If a module cannot be traced, or a graph is for another resolution.
    """
    plan = _plan_of(plan, resolution)
    if isinstance(plan, Graph):
        return graph_peak_bytes(graph_at(plan, resolution))
    return max(
        layer_peak_bytes(layer, size, channels)
        for layer, size, channels in sized_layers(plan, resolution)
    )


def _plan_of(plan: Blueprint | Graph | nn.Module, resolution: int) -> Blueprint | Graph:
    if not isinstance(plan, nn.Module):
        return plan
    if isinstance(plan, StaticNet):
        return plan.plan
    parameter = next(plan.parameters(), None)
    images = torch.empty(1, 3, resolution, resolution)
    return traced_graph(plan, images if parameter is None else images.to(parameter))


def layer_macs(layer: Layer, size: int) -> int:
    """Return the multiply-accumulates of one layer on an input of side ``size`` pixels."""
    return sum(op.macs for op in operations(layer, size, 0))


def layer_params(layer: Layer) -> int:
    """Return the number of parameters of one layer."""
    return sum(op.params for op in operations(layer, 1, 0))


def layer_peak_bytes(layer: Layer, size: int, channels: int) -> int:
    """Return the largest number of activation bytes alive while one layer runs.

    Args:
        layer: Layer record.
        size: Side of its square input, in pixels.
        channels: Channels of its input (pooling records do not name them).
    """
    live = (op.live_numbers for op in operations(layer, size, channels))
    return BYTES_PER_NUMBER * max(live, default=0)


def sized_layers(plan: Blueprint, resolution: int) -> Iterator[tuple[Layer, int, int]]:
    """Yield every layer in order, with its input's side in pixels and its input's channels."""
    size, channels = resolution, 3
    for layer in plan.layers:
        yield layer, size, channels
        size, channels = output_size(layer, size), output_channels(layer, channels)


def output_channels(layer: Layer, channels: int) -> int:
    """Return the output channels of ``layer`` on an input with ``channels`` channels."""
    match layer:
        case Conv() | MBConv() | Bottleneck() | Residual() | FusedMBConv():
            return layer.out_channels
        case Linear():
            return layer.out_features
        case MaxPool() | GlobalPool() | Identity():
            return channels
        case _ as never:
            assert_never(never)


def operations(layer: Layer, size: int, channels: int) -> tuple[Operation, ...]:
    """Return the primitive operations of one layer, in order.

    Args:
        layer: Layer record.
        size: Side of its square input, in pixels.
        channels: Channels of its input; only pooling reads it, and only for live numbers.
    """
    match layer:
        case Conv():
            ops = (_conv(layer, size, waiting=0),)
            result = layer.out_channels * output_size(layer, size) ** 2
            return (*ops, Operation(live_numbers=2 * result)) if layer.residual else ops
        case MBConv():
            return _mbconv(layer, size)
        case Bottleneck():
            return _bottleneck(layer, size)
        case Residual():
            return _residual(layer, size)
        case FusedMBConv():
            return _fused(layer, size)
        case MaxPool():
            numbers = channels * (size**2 + output_size(layer, size) ** 2)
            return (Operation(live_numbers=numbers),)
        case GlobalPool():
            return (Operation(live_numbers=channels * (size**2 + 1)),)
        case Linear():
            macs = layer.in_features * layer.out_features
            params = macs + layer.out_features * layer.bias
            numbers = layer.in_features + layer.out_features
            return (Operation(macs=macs, params=params, live_numbers=numbers),)
        case Identity():
            return ()


def _mbconv(layer: MBConv, size: int) -> tuple[Operation, ...]:
    mid, out, after = layer.mid_channels, layer.out_channels, output_size(layer, size)
    expand, depthwise, project = mbconv_units(layer)
    # The input waits for the addition; without one it is gone once it has been read.
    waiting = layer.in_channels * size**2 if layer.residual else 0
    ops = [_conv(expand, size, waiting=0)] if layer.has_expansion else []
    # Without an expansion the depthwise convolution reads the waiting tensor itself.
    ops.append(_conv(depthwise, size, waiting=waiting if layer.has_expansion else 0))
    if layer.se_channels:
        ops += _squeeze_excite(mid, layer.se_channels, waiting=waiting + mid * after**2)
    ops.append(_conv(project, after, waiting=waiting))
    if layer.residual:
        ops.append(Operation(live_numbers=waiting + out * after**2))
    return tuple(ops)


def _squeeze_excite(mid: int, hidden: int, *, waiting: int) -> list[Operation]:
    """Return pooling, two 1x1 convolutions with bias on a 1x1 map, and the scaling."""
    squeeze = Conv(in_channels=mid, out_channels=hidden, bias=True, norm=False)
    excite = Conv(in_channels=hidden, out_channels=mid, bias=True, norm=False)
    return [
        Operation(live_numbers=waiting + mid),
        _conv(squeeze, 1, waiting=waiting),
        _conv(excite, 1, waiting=waiting),
        Operation(live_numbers=waiting + mid),
    ]


def _bottleneck(layer: Bottleneck, size: int) -> tuple[Operation, ...]:
    reduce, middle, restore = bottleneck_units(layer)
    waiting = layer.in_channels * size**2
    return (
        _conv(reduce, size, waiting=0),
        _conv(middle, size, waiting=waiting),
        _conv(restore, output_size(layer, size), waiting=waiting),
        *_shortcut(layer, size),
    )


def _residual(layer: Residual, size: int) -> tuple[Operation, ...]:
    first, second = residual_units(layer)
    waiting = layer.in_channels * size**2
    # The first convolution reads the waiting tensor itself.
    ops = (
        _conv(first, size, waiting=0),
        _conv(second, output_size(layer, size), waiting=waiting),
    )
    return (*ops, *_shortcut(layer, size))


def _fused(layer: FusedMBConv, size: int) -> tuple[Operation, ...]:
    expand, project = fused_units(layer)
    after = output_size(layer, size)
    waiting = layer.in_channels * size**2 if layer.residual else 0
    ops = (_conv(expand, size, waiting=0), _conv(project, after, waiting=waiting))
    added = Operation(live_numbers=waiting + layer.out_channels * after**2)
    return (*ops, added) if layer.residual else ops


def _shortcut(layer: Bottleneck | Residual, size: int) -> Iterator[Operation]:
    """Yield what follows a block's last convolution: its shortcut, and the addition."""
    after = output_size(layer, size)
    waiting, result = layer.in_channels * size**2, layer.out_channels * after**2
    if layer.downsample != "none":
        pooled = layer.downsample == "avgpool_conv"
        if pooled and layer.stride > 1:
            shortcut_input = layer.in_channels * after**2
            yield Operation(live_numbers=result + waiting + shortcut_input)
        yield _conv(shortcut_unit(layer), after if pooled else size, waiting=result)
        waiting = result
    yield Operation(live_numbers=result + waiting)


def _conv(layer: Conv, size: int, *, waiting: int) -> Operation:
    """Return a convolution with its norm.

    Args:
        layer: Convolution.
        size: Side of its input, in pixels.
        waiting: Numbers in tensors that are alive beside its input and result.
    """
    weights = layer.in_channels * layer.out_channels * layer.kernel_size**2 // layer.groups
    after = output_size(layer, size)
    return Operation(
        macs=weights * after**2,
        params=weights + layer.out_channels * (layer.bias + 2 * layer.norm),
        live_numbers=waiting + layer.in_channels * size**2 + layer.out_channels * after**2,
    )
