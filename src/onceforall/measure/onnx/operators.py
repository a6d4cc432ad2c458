"""ONNX forms of layers: convolutions, norms, activations, pools, attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from onceforall.errors import BlueprintError
from onceforall.graph import Node
from onceforall.measure.onnx.writer import GraphWriter, array, pair


def conv(to: GraphWriter, index: int, node: Node) -> str:
    """Convolution, with the batch norm that follows it."""
    x, weight, bias, stride, padding, dilation, groups = node.args
    if isinstance(padding, str):
        raise BlueprintError(f"node {node.name}: padding {padding!r}")
    w = to.tensor(weight).double()
    b = torch.zeros(len(w), dtype=w.dtype) if bias is None else to.tensor(bias).double()
    if index in to.folds:
        norm: Any = to.module.get_submodule(to.plan.nodes[to.folds[index]].module)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = 0.0 if norm.bias is None else norm.bias.double()
        w = w * scale.view(-1, *(1,) * (w.ndim - 1))
        b = (b - norm.running_mean.double()) * scale + shift
    return to.node(
        "Conv",
        [to.value(x), *(to.onnx.constant(array(t)) for t in (w, b))],
        kernel_shape=list(w.shape[2:]),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=int(groups),
    )


def linear(to: GraphWriter, index: int, node: Node) -> str:
    """Fully connected layer."""
    x, weight, bias = (*node.args, None)[:3]
    if len(to.shape(x)) == 2:
        w = to.onnx.constant(array(to.tensor(weight)))
        b = torch.zeros(to.shape(weight)[0]) if bias is None else to.tensor(bias)
        return to.node("Gemm", [to.value(x), w, to.onnx.constant(array(b))], transB=1)
    w = to.onnx.constant(array(to.tensor(weight).t()))
    y = to.node("MatMul", [to.value(x), w])
    return y if bias is None else to.node("Add", [y, to.value(bias)])


def batch_norm(to: GraphWriter, index: int, node: Node) -> str:
    """Batch norm that nothing was folded into."""
    norm: Any = to.module.get_submodule(node.module)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
    shift = shift - norm.running_mean.double() * scale
    wide = (-1, *(1,) * (len(node.shape) - 2))
    y = to.node("Mul", [to.value(node.args[0]), to.onnx.constant(array(scale.view(wide)))])
    return to.node("Add", [y, to.onnx.constant(array(shift.view(wide)))])


def layer_norm(to: GraphWriter, index: int, node: Node) -> str:
    """Norm of the last dimensions."""
    x, sizes, weight, bias, eps = (*node.args, None, None, 1e-5)[:5]
    shape = tuple(int(size) for size in sizes)
    scale = torch.ones(shape) if weight is None else to.tensor(weight)
    shift = torch.zeros(shape) if bias is None else to.tensor(bias)
    inputs = [to.value(x), *(to.onnx.constant(array(t)) for t in (scale, shift))]
    return to.node("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps))


def group_norm(to: GraphWriter, index: int, node: Node) -> str:
    """Norm of groups of channels."""
    x, groups, weight, bias, eps = (*node.args[:5],)
    shape = to.shape(x)
    flat = to.node("Reshape", [to.value(x), to.ints([0, int(groups), -1])])
    ones, zeros = np.ones(int(groups), np.float32), np.zeros(int(groups), np.float32)
    inputs = [flat, to.onnx.constant(ones), to.onnx.constant(zeros)]
    y = to.node("InstanceNormalization", inputs, epsilon=float(eps))
    y = to.node("Reshape", [y, to.ints([0, *(int(n) for n in shape[1:])])])
    wide = (-1, *(1,) * (len(shape) - 2))
    y = to.node("Mul", [y, to.onnx.constant(array(to.tensor(weight).view(wide)))])
    return to.node("Add", [y, to.onnx.constant(array(to.tensor(bias).view(wide)))])


def clip(to: GraphWriter, index: int, node: Node) -> str:
    """Values between two bounds."""
    names = ("max",) if node.op == "clamp_max.default" else ("min", "max")
    given = dict(zip(names, node.args[1:], strict=False))
    given |= {key.removesuffix("_val"): value for key, value in node.kwargs}
    if node.op.startswith("hardtanh"):
        given = {"min": -1.0, "max": 1.0} | given
    low, high = given.get("min"), given.get("max")
    bounds = ["" if b is None else to.value(float(b)) for b in (low, high)]
    return to.node("Clip", [to.value(node.args[0]), *bounds])


def silu(to: GraphWriter, index: int, node: Node) -> str:
    """X times its sigmoid."""
    x = to.value(node.args[0])
    return to.node("Mul", [x, to.node("Sigmoid", [x])])


def mish(to: GraphWriter, index: int, node: Node) -> str:
    """X times the hyperbolic tangent of its softplus."""
    x = to.value(node.args[0])
    return to.node("Mul", [x, to.node("Tanh", [to.node("Softplus", [x])])])


def elu(to: GraphWriter, index: int, node: Node) -> str:
    """An exponential for negative values."""
    x, alpha, *scales = (*node.args, 1.0)[: max(2, len(node.args))]
    if any(scale != 1 for scale in scales):
        raise BlueprintError(f"node {node.name}: {node.op} with scales has no form in ONNX")
    return to.node("Elu", [to.value(x)], alpha=float(alpha))


def rsqrt(to: GraphWriter, index: int, node: Node) -> str:
    """One over the square root."""
    return to.node("Reciprocal", [to.node("Sqrt", [to.value(node.args[0])])])


def square(to: GraphWriter, index: int, node: Node) -> str:
    """X times itself."""
    x = to.value(node.args[0])
    return to.node("Mul", [x, x])


def gelu(to: GraphWriter, index: int, node: Node) -> str:
    """X times the normal distribution up to x, exact or by tanh."""
    x = to.value(node.args[0])
    if dict(node.kwargs).get("approximate", (*node.args, "none")[1]) == "tanh":
        cube = to.node("Mul", [x, to.node("Mul", [x, x])])
        inner = to.node("Add", [x, to.node("Mul", [cube, to.value(0.044715)])])
        share = to.node("Tanh", [to.node("Mul", [inner, to.value((2 / np.pi) ** 0.5)])])
    else:
        share = to.node("Erf", [to.node("Mul", [x, to.value(0.5**0.5)])])
    half = to.node("Mul", [x, to.value(0.5)])
    return to.node("Mul", [half, to.node("Add", [share, to.value(1.0)])])


def prelu(to: GraphWriter, index: int, node: Node) -> str:
    """A slope for negative values of each channel."""
    slopes = to.tensor(node.args[1])
    wide = (-1, *(1,) * (len(node.shape) - 2))
    return to.node("PRelu", [to.value(node.args[0]), to.onnx.constant(array(slopes.view(wide)))])


def softmax(to: GraphWriter, index: int, node: Node) -> str:
    """Shares that sum to 1."""
    return to.node("Softmax", [to.value(node.args[0])], axis=int(node.args[1]))


def attention(to: GraphWriter, index: int, node: Node) -> str:
    """Attention: softmax of queries times keys, times values."""
    query, key, value, *rest = node.args
    named = dict(node.kwargs)
    mask = rest[0] if rest else named.get("attn_mask")
    causal = (rest[2] if len(rest) > 2 else named.get("is_causal")) or False
    scale = (rest[3] if len(rest) > 3 else named.get("scale")) or (
        float(to.shape(query)[-1]) ** -0.5
    )
    if causal:
        raise BlueprintError(f"node {node.name}: causal attention")
    order = list(range(len(to.shape(key))))
    order[-2:] = order[:-3:-1]
    turned = to.node("Transpose", [to.value(key)], perm=order)
    scores = to.node("MatMul", [to.value(query), turned])
    scores = to.node("Mul", [scores, to.value(float(scale))])
    if mask is not None:
        scores = to.node("Add", [scores, to.value(mask)])
    shares = to.node("Softmax", [scores], axis=-1)
    return to.node("MatMul", [shares, to.value(value)])


def pool(to: GraphWriter, index: int, node: Node) -> str:
    """Maxima or means of windows."""
    x, kernel, *rest = node.args
    kernel = pair(kernel)
    stride = pair(rest[0]) if rest and rest[0] else kernel
    pads = pair(rest[1]) if len(rest) > 1 else (0, 0)
    named: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(stride)}
    if node.op.startswith("max"):
        named["dilations"] = list(pair(rest[2]) if len(rest) > 2 else (1, 1))
        ceil, op = bool(rest[3]) if len(rest) > 3 else False, "MaxPool"
    else:
        ceil, op = bool(rest[2]) if len(rest) > 2 else False, "AveragePool"
        named["count_include_pad"] = int(rest[3]) if len(rest) > 3 else 1
        if (len(rest) > 4 and rest[4] is not None) or (ceil and named["count_include_pad"]):
            raise BlueprintError(f"node {node.name}: a mean that counts beyond its end")
    return to.node(op, [to.value(x)], pads=[*pads, *pads], ceil_mode=int(ceil), **named)


def adaptive(to: GraphWriter, index: int, node: Node) -> str:
    """Means of a grid of equal windows."""
    x, size = node.args
    grid, sides = pair(size), to.shape(x)[-2:]
    if grid == (1, 1):
        return to.node("GlobalAveragePool", [to.value(x)])
    if any(side % count for side, count in zip(sides, grid, strict=True)):
        raise BlueprintError(f"node {node.name}: unequal windows")
    window = [side // count for side, count in zip(sides, grid, strict=True)]
    return to.node("AveragePool", [to.value(x)], kernel_shape=window, strides=window)


def leaky_relu(to: GraphWriter, index: int, node: Node) -> str:
    """One slope for negative values."""
    alpha = float((*node.args, 0.01)[1])
    return to.node("LeakyRelu", [to.value(node.args[0])], alpha=alpha)
