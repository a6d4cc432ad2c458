"""ONNX models of graphs, node by node, batch norm folded into convolutions where it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceforall.errors import BlueprintError
from onceforall.graph import Graph, Node
from onceforall.measure import onnx_layers, onnx_shapes
from onceforall.measure.onnx_graph import OnnxGraph
from onceforall.measure.onnx_writer import GraphWriter
from onceforall.supernets.graphs.network import GraphNet


def add_graph(onnx: OnnxGraph, plan: Graph, weights: GraphNet, images: str) -> str:
    """Append a graph's nodes and return the name of the logits.

    Args:
        onnx: The ONNX graph under construction.
        plan: Network to write.
        weights: Its plain module, in eval mode.
        images: Name of the input.

    Raises:
        BlueprintError: Naming the first node that has no form in ONNX.
    """
    to = GraphWriter(onnx, plan, weights, images)
    for index, node in enumerate(plan.nodes):
        if index == 0:
            continue
        if node.op == "batch_norm" and node.inputs[0] in to.folds:
            to.names[index] = to.names[node.inputs[0]]
            continue
        if node.op not in _WRITERS:
            raise BlueprintError(f"node {node.name}: {node.op} has no form in ONNX")
        to.names[index] = _WRITERS[node.op](to, index, node)
    return to.names[plan.output]


def _simple(op: str, **attributes: Any) -> Callable[[GraphWriter, int, Node], str]:
    return lambda to, index, node: to.node(op, [to.value(node.args[0])], **attributes)


_WRITERS: dict[str, Callable[[GraphWriter, int, Node], str]] = {
    **dict.fromkeys(onnx_shapes.BINARY, onnx_shapes.binary),
    **dict.fromkeys(
        ("contiguous.default", "clone.default", "dropout.default", "feature_dropout.default"),
        onnx_shapes.same,
    ),
    **dict.fromkeys(
        ("clamp.default", "clamp_min.default", "clamp_max.default", "hardtanh.default"),
        onnx_layers.clip,
    ),
    **dict.fromkeys(("max_pool2d.default", "avg_pool2d.default"), onnx_layers.pool),
    **dict.fromkeys(
        ("mean.dim", "sum.dim_IntList", "amax.default", "linalg_vector_norm.default"),
        onnx_shapes.reduce,
    ),
    **dict.fromkeys(("matmul.default", "bmm.default"), onnx_shapes.matmul),
    "conv2d.default": onnx_layers.conv,
    "linear.default": onnx_layers.linear,
    "batch_norm": onnx_layers.batch_norm,
    "relu.default": _simple("Relu"),
    "relu6.default": lambda to, index, node: to.node(
        "Clip", [to.value(node.args[0]), to.value(0.0), to.value(6.0)]
    ),
    "sigmoid.default": _simple("Sigmoid"),
    "tanh.default": _simple("Tanh"),
    "hardswish.default": _simple("HardSwish"),
    "hardsigmoid.default": _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    "exp.default": _simple("Exp"),
    "sqrt.default": _simple("Sqrt"),
    "neg.default": _simple("Neg"),
    "abs.default": _simple("Abs"),
    "erf.default": _simple("Erf"),
    "softplus.default": _simple("Softplus"),
    "leaky_relu.default": onnx_layers.leaky_relu,
    "silu.default": onnx_layers.silu,
    "gelu.default": onnx_layers.gelu,
    "adaptive_avg_pool2d.default": onnx_layers.adaptive,
    "softmax.int": onnx_layers.softmax,
    "layer_norm.default": onnx_layers.layer_norm,
    "group_norm.default": onnx_layers.group_norm,
    "to.dtype": onnx_shapes.cast,
    "addcmul.default": onnx_shapes.addcmul,
    "reshape": onnx_shapes.reshape,
    "expand": onnx_shapes.expand,
    "permute": onnx_shapes.permute,
    "slice": onnx_shapes.slice_along,
    "select": onnx_shapes.select,
    "cat.default": onnx_shapes.cat,
    "pad.default": onnx_shapes.pad,
    "roll.default": onnx_shapes.roll,
    "einsum.default": onnx_shapes.einsum,
    "scaled_dot_product_attention.default": onnx_layers.attention,
    "upsample_nearest2d.vec": onnx_shapes.upsample,
    "prelu.default": onnx_layers.prelu,
    "masked_fill.Scalar": onnx_shapes.masked_fill,
}
