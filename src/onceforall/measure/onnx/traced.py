"""ONNX models of graphs, node by node, batch norm folded into convolutions where it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceforall.errors import BlueprintError
from onceforall.graph import Graph, Node
from onceforall.measure.onnx import operators, shapes
from onceforall.measure.onnx.graph import OnnxGraph
from onceforall.measure.onnx.writer import GraphWriter
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
    **dict.fromkeys(shapes.BINARY, shapes.binary),
    **dict.fromkeys(
        ("contiguous.default", "clone.default", "dropout.default", "feature_dropout.default"),
        shapes.same,
    ),
    **dict.fromkeys(
        ("clamp.default", "clamp_min.default", "clamp_max.default", "hardtanh.default"),
        operators.clip,
    ),
    **dict.fromkeys(("max_pool2d.default", "avg_pool2d.default"), operators.pool),
    **dict.fromkeys(
        ("mean.dim", "sum.dim_IntList", "amax.default", "linalg_vector_norm.default"),
        shapes.reduce,
    ),
    **dict.fromkeys(("matmul.default", "bmm.default"), shapes.matmul),
    "conv2d.default": operators.conv,
    "linear.default": operators.linear,
    "batch_norm": operators.batch_norm,
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
    "log.default": _simple("Log"),
    "reciprocal.default": _simple("Reciprocal"),
    "rsqrt.default": operators.rsqrt,
    "square.default": operators.square,
    "selu.default": _simple("Selu"),
    "elu.default": operators.elu,
    "mish.default": operators.mish,
    "leaky_relu.default": operators.leaky_relu,
    "silu.default": operators.silu,
    "gelu.default": operators.gelu,
    "adaptive_avg_pool2d.default": operators.adaptive,
    "softmax.int": operators.softmax,
    "layer_norm.default": operators.layer_norm,
    "group_norm.default": operators.group_norm,
    "to.dtype": shapes.cast,
    "addcmul.default": shapes.addcmul,
    "reshape": shapes.reshape,
    "expand": shapes.expand,
    "permute": shapes.permute,
    "slice": shapes.slice_along,
    "select": shapes.select,
    "cat.default": shapes.cat,
    "pad.default": shapes.pad,
    "roll.default": shapes.roll,
    "einsum.default": shapes.einsum,
    "scaled_dot_product_attention.default": operators.attention,
    "upsample_nearest2d.vec": shapes.upsample,
    "prelu.default": operators.prelu,
    "masked_fill.Scalar": shapes.masked_fill,
}
