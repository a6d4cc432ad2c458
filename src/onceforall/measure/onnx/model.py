"""ONNX models, written straight from blueprints.

The graph is written node by node, of our own networks and of traced ones, batch norm folded into
the convolutions. It takes milliseconds, gives the same bytes for the same weights, and is what
latency is measured on and what ships.
Every model has the input ``images`` and the output ``logits``, both float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onceforall.blueprint import (
    Activation,
    Block,
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
)
from onceforall.errors import BlueprintError, MissingExtraError
from onceforall.graph import Graph
from onceforall.measure.graph_costs import graph_at
from onceforall.measure.onnx.graph import OnnxGraph
from onceforall.measure.onnx.traced import add_graph
from onceforall.supernets.graphs.network import GraphNet, build_graph
from onceforall.supernets.static import StaticNet
from onceforall.supernets.units import (
    bottleneck_units,
    fused_units,
    mbconv_units,
    residual_units,
    shortcut_unit,
)

# The oldest versions that have every operator used here: models run on runtimes since 2022.
OPSET = 17
IR_VERSION = 8
INPUT_NAME = "images"
OUTPUT_NAME = "logits"

_HARD_SIGMOID = {"alpha": 1 / 6, "beta": 0.5}


def blueprint_to_onnx(
    plan: Blueprint | Graph,
    weights: StaticNet | GraphNet | None = None,
    *,
    resolution: int,
    batch_size: int | None = None,
) -> bytes:
    """Return the ONNX model of a network, batch norm folded.

    Args:
        plan: Network to write. A blueprint may be a part of one: then the input has the channels
            of the first layer, and the output is whatever the last layer gives.
        weights: Its plain network, in eval mode; None for fixed random weights (good for
            measuring latency).
        resolution: Side of the square input, in pixels.
        batch_size: Fixed batch size; None leaves it free.

    Raises:
        BlueprintError: If the weights do not fit the plan, or a node has no form in ONNX.
        MissingExtraError: If onnx is not installed.
    """
    graph = OnnxGraph(import_extra("onnx", "onnx"))
    batch: int | str = "batch" if batch_size is None else batch_size
    if isinstance(plan, Graph):
        with torch.no_grad():
            net = _graph_net(plan, weights)
            logits = add_graph(graph, graph_at(plan, resolution), net, INPUT_NAME)
        shape = [batch, input_channels(plan), resolution, resolution]
        return _model(graph, logits, shape, [batch, plan.num_classes])
    modules: list[nn.Module | None] = [None] * len(plan.layers)
    if isinstance(weights, StaticNet):
        modules = [*weights.stem, *weights.blocks, *weights.head]
        if len(modules) != len(plan.layers):
            raise BlueprintError(
                f"the weights have {len(modules)} layers where the blueprint has {len(plan.layers)}"
            )
    x = INPUT_NAME
    with torch.no_grad():
        for layer, module in zip(plan.layers, modules, strict=True):
            x = _add_layer(graph, layer, module, x)
    last = plan.layers[-1] if plan.layers else None
    out_shape = [batch, last.out_features] if isinstance(last, Linear) else [None] * 4
    return _model(graph, x, [batch, input_channels(plan), resolution, resolution], out_shape)


def _graph_net(plan: Graph, weights: nn.Module | None) -> GraphNet:
    """Return the plain module of a graph, with fixed random weights where none are given."""
    if isinstance(weights, GraphNet):
        return weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_graph(plan).eval()


def _model(graph: OnnxGraph, logits: str, shape: list[Any], out_shape: list[Any]) -> bytes:
    """Return the bytes of a model."""
    onnx = graph.onnx
    float32 = onnx.TensorProto.FLOAT
    graph.rename(logits, OUTPUT_NAME)
    body = onnx.helper.make_graph(
        graph.nodes,
        "onceforall",
        [onnx.helper.make_tensor_value_info(INPUT_NAME, float32, shape)],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, float32, out_shape)],
        graph.weights,
    )
    model = onnx.helper.make_model(
        body, producer_name="onceforall", opset_imports=[onnx.helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR_VERSION
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def ort_session(model: bytes, *, threads: int = 1) -> Any:
    """Return an ONNX Runtime session on the CPU with a fixed number of threads.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    # What is wrong with a file is said by who reads it; the runtime would print it too, twice.
    options.log_severity_level = 4
    return runtime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def input_channels(plan: Blueprint | Graph) -> int:
    """Return the channels of a network's input; a pooling layer takes what comes, say 1."""
    if isinstance(plan, Graph):
        return int(plan.nodes[0].shape[1])
    for layer in plan.layers:
        if isinstance(layer, Conv | Block):
            return layer.in_channels
        if isinstance(layer, Linear):
            return layer.in_features
    return 1


def import_extra(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, extra) from error


def _add_layer(graph: OnnxGraph, layer: Layer, module: nn.Module | None, x: str) -> str:
    """Append one layer to the graph and return the name of its output."""
    match layer:
        case Conv():
            return _add_conv(graph, layer, module, x)
        case MBConv():
            return _add_mbconv(graph, layer, module, x)
        case Bottleneck():
            return _add_shortcut_block(graph, layer, bottleneck_units(layer), module, x)
        case Residual():
            return _add_shortcut_block(graph, layer, residual_units(layer), module, x)
        case FusedMBConv():
            return _add_fused(graph, layer, module, x)
        case MaxPool():
            pads = [layer.kernel_size // 2] * 4
            return graph.node("MaxPool", [x], _window(layer.kernel_size, layer.stride, pads))
        case GlobalPool():
            return graph.node("GlobalAveragePool", [x])
        case Linear():
            return _add_linear(graph, layer, module, x)
        case Identity():
            return x


def _add_conv(graph: OnnxGraph, layer: Conv, module: nn.Module | None, x: str) -> str:
    weight, bias = _folded(graph, layer, module)
    attributes = {
        **_window(layer.kernel_size, layer.stride, [layer.kernel_size // 2] * 4),
        "group": layer.groups,
    }
    y = graph.node("Conv", [x, graph.constant(weight), graph.constant(bias)], attributes)
    y = _add_activation(graph, layer.activation, y)
    return graph.node("Add", [y, x]) if layer.residual else y


def _add_mbconv(graph: OnnxGraph, layer: MBConv, module: nn.Module | None, x: str) -> str:
    expand, depthwise, project = mbconv_units(layer)
    y = x
    if layer.has_expansion:
        y = _add_conv(graph, expand, _part(module, "inverted_bottleneck"), y)
    y = _add_conv(graph, depthwise, _part(module, "depth_conv"), y)
    if layer.se_channels:
        mid, hidden = layer.mid_channels, layer.se_channels
        gate = graph.node("GlobalAveragePool", [y])
        for name, into, out, activation in (
            ("reduce", mid, hidden, "relu"),
            ("expand", hidden, mid, "h_sigmoid"),
        ):
            unit = Conv(in_channels=into, out_channels=out, norm=False, bias=True,
                        activation=activation)  # type: ignore[arg-type]  # fmt: skip
            gate = _add_conv(graph, unit, _part(module, f"se.{name}"), gate)
        y = graph.node("Mul", [y, gate])
    y = _add_conv(graph, project, _part(module, "point_linear"), y)
    return graph.node("Add", [y, x]) if layer.residual else y


def _add_fused(graph: OnnxGraph, layer: FusedMBConv, module: nn.Module | None, x: str) -> str:
    expand, project = fused_units(layer)
    y = _add_conv(graph, expand, _part(module, "expand"), x)
    y = _add_conv(graph, project, _part(module, "point_linear"), y)
    return graph.node("Add", [y, x]) if layer.residual else y


def _add_shortcut_block(
    graph: OnnxGraph,
    layer: Bottleneck | Residual,
    units: Sequence[Conv],
    module: nn.Module | None,
    x: str,
) -> str:
    y = x
    for number, unit in enumerate(units, start=1):
        y = _add_conv(graph, unit, _part(module, f"conv{number}"), y)
    shortcut = x
    if layer.downsample != "none":
        if layer.downsample == "avgpool_conv" and layer.stride > 1:
            window = {**_window(layer.stride, layer.stride, [0] * 4), "ceil_mode": 1}
            shortcut = graph.node("AveragePool", [x], window)
        shortcut = _add_conv(graph, shortcut_unit(layer), _part(module, "downsample"), shortcut)
    return _add_activation(graph, layer.activation, graph.node("Add", [y, shortcut]))


def _add_linear(graph: OnnxGraph, layer: Linear, module: nn.Module | None, x: str) -> str:
    if module is None:
        weight = _random(graph, (layer.out_features, layer.in_features))
        bias = np.zeros(layer.out_features, np.float32)
    else:
        linear = module.get_submodule("linear")
        weight, bias = _array(linear.weight), np.zeros(layer.out_features, np.float32)
        if layer.bias:
            bias = _array(linear.bias)
    flat = graph.node("Flatten", [x], {"axis": 1})
    inputs = [flat, graph.constant(weight), graph.constant(bias)]
    return graph.node("Gemm", inputs, {"transB": 1})


def _add_activation(graph: OnnxGraph, activation: Activation, x: str) -> str:
    match activation:
        case "relu":
            return graph.node("Relu", [x])
        case "relu6":
            bounds = [graph.constant(np.array(b, np.float32)) for b in (0.0, 6.0)]
            return graph.node("Clip", [x, *bounds])
        case "h_sigmoid":
            return graph.node("HardSigmoid", [x], _HARD_SIGMOID)
        case "h_swish":
            return graph.node("HardSwish", [x])
        case "sigmoid":
            return graph.node("Sigmoid", [x])
        case "tanh":
            return graph.node("Tanh", [x])
        case "silu":
            return graph.node("Mul", [x, graph.node("Sigmoid", [x])])
        case "none":
            return x


def _folded(
    graph: OnnxGraph, layer: Conv, module: nn.Module | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return filter and bias of a convolution with its batch norm folded in."""
    shape = (
        layer.out_channels,
        layer.in_channels // layer.groups,
        layer.kernel_size,
        layer.kernel_size,
    )
    if module is None:
        return _random(graph, shape), np.zeros(layer.out_channels, np.float32)
    conv = module if isinstance(module, nn.Conv2d) else module.get_submodule("conv")
    if not isinstance(conv, nn.Conv2d) or tuple(conv.weight.shape) != shape:
        raise BlueprintError(f"the weights {conv} are not those of {layer}")
    # Folding in float64 keeps the error at that of one rounding.
    weight = conv.weight.double()
    bias = torch.zeros(shape[0]).to(weight) if conv.bias is None else conv.bias.double()
    if layer.norm:
        norm = module.get_submodule("bn")
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    return _array(weight), _array(bias)


def _part(module: nn.Module | None, name: str) -> nn.Module | None:
    return None if module is None else module.get_submodule(name)


def _array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _random(graph: OnnxGraph, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return He-scaled weights: activations keep their size, so nothing under- or overflows."""
    fan_in = int(np.prod(shape[1:]))
    values: NDArray[np.float32] = graph.random.standard_normal(shape, dtype=np.float32)
    return values * np.float32((2 / fan_in) ** 0.5)


def _window(kernel_size: int, stride: int, pads: Iterable[int]) -> dict[str, Any]:
    return {
        "kernel_shape": [kernel_size, kernel_size],
        "strides": [stride, stride],
        "pads": list(pads),
    }
