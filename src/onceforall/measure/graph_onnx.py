"""ONNX models of graphs, node by node, batch norm folded into convolutions where it can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, Graph, Node, Ref, Weight
from onceforall.measure.onnx_graph import OnnxGraph
from onceforall.supernets.graphs.network import GraphNet
from onceforall.supernets.graphs.rules import reduced_dims

Shape = tuple[Any, ...]


def add_graph(onnx: OnnxGraph, plan: Graph, weights: GraphNet, images: str) -> str:
    """Append a graph's nodes and return the name of the logits.

    Args:
        onnx: The ONNX graph under construction.
        plan: Network to write.
        weights: Its plain module, in eval mode.
        images: Name of the input.

    Raises:
        BlueprintError: Naming the first node that has no direct form.
    """
    writer = _Writer(onnx, plan, weights, images)
    for index, node in enumerate(plan.nodes):
        if index:
            writer.add(index, node)
    return writer.names[plan.output]


class _Writer:
    """Writes nodes in order.

    Attributes:
        names: ONNX name of each node's result.
        folds: Convolutions whose batch norm is folded in, and that norm's node.
    """

    def __init__(self, onnx: OnnxGraph, plan: Graph, weights: GraphNet, images: str) -> None:
        self.onnx, self.plan, self.images = onnx, plan, images
        self.module = weights
        self.tensors = {**dict(weights.named_parameters()), **dict(weights.named_buffers())}
        self.names: dict[int, str] = {0: images}
        self.batch = ""
        readers: dict[int, list[int]] = {}
        for index, node in enumerate(plan.nodes):
            for before in node.inputs:
                readers.setdefault(before, []).append(index)
        self.folds = {
            node.inputs[0]: index
            for index, node in enumerate(plan.nodes)
            if node.op == "batch_norm"
            and plan.nodes[node.inputs[0]].op == "conv2d.default"
            and readers[node.inputs[0]] == [index]
        }

    def add(self, index: int, node: Node) -> None:
        """Append one node."""
        if node.op == "batch_norm" and node.inputs[0] in self.folds:
            self.names[index] = self.names[node.inputs[0]]
            return
        writer = _WRITERS.get(node.op)
        if writer is None:
            raise BlueprintError(f"node {node.name}: {node.op} has no direct form in ONNX")
        self.names[index] = writer(self, index, node)

    # -- operands -------------------------------------------------------------------------------

    def value(self, part: Any) -> str:
        """Return the ONNX name of an operand."""
        if isinstance(part, Ref):
            return self.names[part.index]
        if isinstance(part, Weight):
            return self.onnx.constant(self.tensor(part).detach().cpu().numpy())
        if isinstance(part, int | float):
            return self.onnx.constant(np.array(part, np.float32))
        raise BlueprintError(f"operand {part!r} has no form in ONNX")

    def tensor(self, part: Any) -> Tensor:
        """Return a weight."""
        return self.tensors[part.name]

    def shape(self, part: Any) -> Shape:
        """Return the shape of an operand."""
        if isinstance(part, Ref):
            return self.plan.nodes[part.index].shape
        return tuple(self.tensor(part).shape)

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of a list of integers."""
        return self.onnx.constant(np.array(values, np.int64))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append an ONNX node."""
        return self.onnx.node(op, inputs, attributes)

    # -- writers --------------------------------------------------------------------------------

    def conv(self, index: int, node: Node) -> str:
        """Convolution, with the batch norm that follows it."""
        x, weight, bias, stride, padding, dilation, groups = node.args
        if isinstance(padding, str):
            raise BlueprintError(f"node {node.name}: padding {padding!r}")
        w = self.tensor(weight).double()
        b = torch.zeros(len(w), dtype=w.dtype) if bias is None else self.tensor(bias).double()
        if index in self.folds:
            norm: Any = self.module.get_submodule(self.plan.nodes[self.folds[index]].module)
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight.double()
            shift = 0.0 if norm.bias is None else norm.bias.double()
            w = w * scale.view(-1, *(1,) * (w.ndim - 1))
            b = (b - norm.running_mean.double()) * scale + shift
        return self.node(
            "Conv",
            [self.value(x), *(self.onnx.constant(_array(t)) for t in (w, b))],
            kernel_shape=list(w.shape[2:]),
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=int(groups),
        )

    def linear(self, index: int, node: Node) -> str:
        """Fully connected layer."""
        x, weight, bias = (*node.args, None)[:3]
        if len(self.shape(x)) == 2:
            w = self.onnx.constant(_array(self.tensor(weight)))
            b = torch.zeros(self.shape(weight)[0]) if bias is None else self.tensor(bias)
            return self.node("Gemm", [self.value(x), w, self.onnx.constant(_array(b))], transB=1)
        w = self.onnx.constant(_array(self.tensor(weight).t()))
        y = self.node("MatMul", [self.value(x), w])
        return y if bias is None else self.node("Add", [y, self.value(bias)])

    def batch_norm(self, index: int, node: Node) -> str:
        """Batch norm that nothing was folded into."""
        norm: Any = self.module.get_submodule(node.module)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
        shift = shift - norm.running_mean.double() * scale
        wide = (-1, *(1,) * (len(node.shape) - 2))
        y = self.node(
            "Mul", [self.value(node.args[0]), self.onnx.constant(_array(scale.view(wide)))]
        )
        return self.node("Add", [y, self.onnx.constant(_array(shift.view(wide)))])

    def same(self, index: int, node: Node) -> str:
        """The operand."""
        return self.value(node.args[0])

    def clip(self, index: int, node: Node) -> str:
        """Values between two bounds."""
        names = ("max",) if node.op == "clamp_max.default" else ("min", "max")
        given = dict(zip(names, node.args[1:], strict=False))
        given |= {key.removesuffix("_val"): value for key, value in node.kwargs}
        if node.op.startswith("hardtanh"):
            given = {"min": -1.0, "max": 1.0} | given
        low, high = given.get("min"), given.get("max")
        bounds = ["" if b is None else self.value(float(b)) for b in (low, high)]
        return self.node("Clip", [self.value(node.args[0]), *bounds])

    def silu(self, index: int, node: Node) -> str:
        """X times its sigmoid."""
        x = self.value(node.args[0])
        return self.node("Mul", [x, self.node("Sigmoid", [x])])

    def gelu(self, index: int, node: Node) -> str:
        """X times the normal distribution up to x, exact or by tanh."""
        x = self.value(node.args[0])
        if dict(node.kwargs).get("approximate", (*node.args, "none")[1]) == "tanh":
            cube = self.node("Mul", [x, self.node("Mul", [x, x])])
            inner = self.node("Add", [x, self.node("Mul", [cube, self.value(0.044715)])])
            share = self.node("Tanh", [self.node("Mul", [inner, self.value((2 / np.pi) ** 0.5)])])
        else:
            share = self.node("Erf", [self.node("Mul", [x, self.value(0.5**0.5)])])
        half = self.node("Mul", [x, self.value(0.5)])
        return self.node("Mul", [half, self.node("Add", [share, self.value(1.0)])])

    def binary(self, index: int, node: Node) -> str:
        """Two operands, value by value."""
        if node.kwargs:
            raise BlueprintError(f"node {node.name}: {node.op} with {node.kwargs}")
        op = _BINARY[node.op]
        return self.node(op, [self.value(part) for part in node.args[:2]])

    def pool(self, index: int, node: Node) -> str:
        """Maxima or means of windows."""
        x, kernel, *rest = node.args
        kernel = _pair(kernel)
        stride = _pair(rest[0]) if rest and rest[0] else kernel
        pads = _pair(rest[1]) if len(rest) > 1 else (0, 0)
        named: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(stride)}
        if node.op.startswith("max"):
            named["dilations"] = list(_pair(rest[2]) if len(rest) > 2 else (1, 1))
            ceil, op = bool(rest[3]) if len(rest) > 3 else False, "MaxPool"
        else:
            ceil, op = bool(rest[2]) if len(rest) > 2 else False, "AveragePool"
            named["count_include_pad"] = int(rest[3]) if len(rest) > 3 else 1
            if (len(rest) > 4 and rest[4] is not None) or (ceil and named["count_include_pad"]):
                raise BlueprintError(f"node {node.name}: a mean that counts beyond its end")
        return self.node(op, [self.value(x)], pads=[*pads, *pads], ceil_mode=int(ceil), **named)

    def adaptive(self, index: int, node: Node) -> str:
        """Means of a grid of equal windows."""
        x, size = node.args
        grid, sides = _pair(size), self.shape(x)[-2:]
        if grid == (1, 1):
            return self.node("GlobalAveragePool", [self.value(x)])
        if any(side % count for side, count in zip(sides, grid, strict=True)):
            raise BlueprintError(f"node {node.name}: unequal windows")
        window = [side // count for side, count in zip(sides, grid, strict=True)]
        return self.node("AveragePool", [self.value(x)], kernel_shape=window, strides=window)

    def reduce(self, index: int, node: Node) -> str:
        """Means, sums and norms."""
        dims, keep = reduced_dims(node, len(self.shape(node.args[0])))
        x = self.value(node.args[0])
        if node.op == "sum.dim_IntList":
            return self.node("ReduceSum", [x, self.ints(dims)], keepdims=int(keep))
        if node.op == "linalg_vector_norm.default" and float(node.args[1]) != 2:
            raise BlueprintError(f"node {node.name}: norm {node.args[1]}")
        op = {"mean.dim": "ReduceMean", "amax.default": "ReduceMax"}.get(node.op, "ReduceL2")
        return self.node(op, [x], axes=dims, keepdims=int(keep))

    def softmax(self, index: int, node: Node) -> str:
        """Shares that sum to 1."""
        return self.node("Softmax", [self.value(node.args[0])], axis=int(node.args[1]))

    def layer_norm(self, index: int, node: Node) -> str:
        """Norm of the last dimensions."""
        x, sizes, weight, bias, eps = (*node.args, None, None, 1e-5)[:5]
        shape = tuple(int(size) for size in sizes)
        scale = torch.ones(shape) if weight is None else self.tensor(weight)
        shift = torch.zeros(shape) if bias is None else self.tensor(bias)
        inputs = [self.value(x), *(self.onnx.constant(_array(t)) for t in (scale, shift))]
        return self.node("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps))

    def group_norm(self, index: int, node: Node) -> str:
        """Norm of groups of channels."""
        x, groups, weight, bias, eps = (*node.args[:5],)
        shape = self.shape(x)
        flat = self.node("Reshape", [self.value(x), self.ints([0, int(groups), -1])])
        ones, zeros = np.ones(int(groups), np.float32), np.zeros(int(groups), np.float32)
        inputs = [flat, self.onnx.constant(ones), self.onnx.constant(zeros)]
        y = self.node("InstanceNormalization", inputs, epsilon=float(eps))
        y = self.node("Reshape", [y, self.ints([0, *(int(n) for n in shape[1:])])])
        wide = (-1, *(1,) * (len(shape) - 2))
        y = self.node("Mul", [y, self.onnx.constant(_array(self.tensor(weight).view(wide)))])
        return self.node("Add", [y, self.onnx.constant(_array(self.tensor(bias).view(wide)))])

    def reshape(self, index: int, node: Node) -> str:
        """Another shape; the dimension that counts images is worked out."""
        sizes = [-1 if isinstance(size, Batch) else int(size) for size in node.args[1]]
        if sizes.count(-1) > 1:
            raise BlueprintError(f"node {node.name}: two dimensions count images")
        return self.node("Reshape", [self.value(node.args[0]), self.ints(sizes)])

    def expand(self, index: int, node: Node) -> str:
        """Values repeated along dimensions of length 1."""
        parts = [
            self.batch_size(size.times) if isinstance(size, Batch) else self.ints([int(size)])
            for size in node.args[1]
        ]
        return self.node("Expand", [self.value(node.args[0]), self.node("Concat", parts, axis=0)])

    def batch_size(self, times: int) -> str:
        """Return the name of a multiple of the number of images, ``(1,)``."""
        if not self.batch:
            shape = self.node("Shape", [self.images])
            self.batch = self.node("Slice", [shape, self.ints([0]), self.ints([1])])
        return self.batch if times == 1 else self.node("Mul", [self.batch, self.ints([times])])

    def permute(self, index: int, node: Node) -> str:
        """Dimensions in another order."""
        return self.node("Transpose", [self.value(node.args[0])], perm=list(node.args[1]))

    def slice(self, index: int, node: Node) -> str:
        """A part along one dimension."""
        x, dim, start, end, step = node.args
        ends = [self.ints([int(each)]) for each in (start, end, dim, step)]
        return self.node("Slice", [self.value(x), *ends])

    def select(self, index: int, node: Node) -> str:
        """One place along one dimension."""
        x, dim, place = node.args
        return self.node("Gather", [self.value(x), self.onnx.index(place)], axis=dim)

    def cat(self, index: int, node: Node) -> str:
        """Tensors one after the other."""
        return self.node("Concat", [self.value(part) for part in node.args[0]], axis=node.args[1])

    def pad(self, index: int, node: Node) -> str:
        """More values around."""
        x, pads, mode, value = (*node.args, "constant", None)[:4]
        ndim = len(self.shape(x))
        before, after = [0] * ndim, [0] * ndim
        for place in range(len(pads) // 2):
            before[ndim - 1 - place], after[ndim - 1 - place] = pads[2 * place : 2 * place + 2]
        if mode != "constant":
            raise BlueprintError(f"node {node.name}: padding {mode}")
        fill = self.value(float(value or 0.0))
        return self.node("Pad", [self.value(x), self.ints([*before, *after]), fill])

    def roll(self, index: int, node: Node) -> str:
        """Values moved around along dimensions."""
        x = self.value(node.args[0])
        for shift, dim in zip(node.args[1], node.args[2], strict=True):
            size = int(self.shape(node.args[0])[dim])
            cut, axis = self.ints([(-shift) % size]), self.ints([dim])
            tail = self.node("Slice", [x, cut, self.ints([size]), axis])
            head = self.node("Slice", [x, self.ints([0]), cut, axis])
            x = self.node("Concat", [tail, head], axis=dim)
        return x

    def matmul(self, index: int, node: Node) -> str:
        """Product of matrices."""
        return self.node("MatMul", [self.value(part) for part in node.args[:2]])

    def einsum(self, index: int, node: Node) -> str:
        """Einstein sum."""
        equation = node.args[0].replace(" ", "")
        return self.node("Einsum", [self.value(p) for p in node.args[1]], equation=equation)

    def attention(self, index: int, node: Node) -> str:
        """Attention: softmax of queries times keys, times values."""
        query, key, value, *rest = node.args
        named = dict(node.kwargs)
        mask = rest[0] if rest else named.get("attn_mask")
        causal = (rest[2] if len(rest) > 2 else named.get("is_causal")) or False
        scale = (rest[3] if len(rest) > 3 else named.get("scale")) or (
            float(self.shape(query)[-1]) ** -0.5
        )
        if causal:
            raise BlueprintError(f"node {node.name}: causal attention")
        order = list(range(len(self.shape(key))))
        order[-2:] = order[:-3:-1]
        turned = self.node("Transpose", [self.value(key)], perm=order)
        scores = self.node("MatMul", [self.value(query), turned])
        scores = self.node("Mul", [scores, self.value(float(scale))])
        if mask is not None:
            scores = self.node("Add", [scores, self.value(mask)])
        shares = self.node("Softmax", [scores], axis=-1)
        return self.node("MatMul", [shares, self.value(value)])

    def upsample(self, index: int, node: Node) -> str:
        """Nearest values on a finer grid."""
        sides = [int(size) for size in self.shape(node.args[0])[2:]]
        scales = [1.0, 1.0, *(int(n) / s for n, s in zip(node.shape[2:], sides, strict=True))]
        inputs = [self.value(node.args[0]), "", self.onnx.constant(np.array(scales, np.float32))]
        return self.node(
            "Resize", inputs, mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )  # fmt: skip

    def prelu(self, index: int, node: Node) -> str:
        """A slope for negative values of each channel."""
        slopes = self.tensor(node.args[1])
        wide = (-1, *(1,) * (len(node.shape) - 2))
        return self.node(
            "PRelu", [self.value(node.args[0]), self.onnx.constant(_array(slopes.view(wide)))]
        )

    def masked_fill(self, index: int, node: Node) -> str:
        """A number where a mask says so."""
        x, mask, value = node.args
        return self.node("Where", [self.value(mask), self.value(float(value)), self.value(x)])


def _simple(op: str, **attributes: Any) -> Callable[[_Writer, int, Node], str]:
    return lambda writer, index, node: writer.node(op, [writer.value(node.args[0])], **attributes)


def _slope(writer: _Writer, index: int, node: Node) -> str:
    alpha = float((*node.args, 0.01)[1])
    return writer.node("LeakyRelu", [writer.value(node.args[0])], alpha=alpha)


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()


_BINARY = {
    "add.Tensor": "Add", "sub.Tensor": "Sub", "mul.Tensor": "Mul", "div.Tensor": "Div",
    "add.Scalar": "Add", "sub.Scalar": "Sub", "mul.Scalar": "Mul", "div.Scalar": "Div",
    "maximum.default": "Max", "minimum.default": "Min", "pow.Tensor_Scalar": "Pow",
}  # fmt: skip

_WRITERS: dict[str, Callable[[_Writer, int, Node], str]] = {
    **dict.fromkeys(_BINARY, _Writer.binary),
    **dict.fromkeys(
        ("contiguous.default", "clone.default", "dropout.default", "feature_dropout.default"),
        _Writer.same,
    ),
    **dict.fromkeys(
        ("clamp.default", "clamp_min.default", "clamp_max.default", "hardtanh.default"),
        _Writer.clip,
    ),
    **dict.fromkeys(("max_pool2d.default", "avg_pool2d.default"), _Writer.pool),
    **dict.fromkeys(
        ("mean.dim", "sum.dim_IntList", "amax.default", "linalg_vector_norm.default"),
        _Writer.reduce,
    ),
    **dict.fromkeys(("matmul.default", "bmm.default"), _Writer.matmul),
    "conv2d.default": _Writer.conv,
    "linear.default": _Writer.linear,
    "batch_norm": _Writer.batch_norm,
    "relu.default": _simple("Relu"),
    "relu6.default": lambda w, i, n: w.node(
        "Clip", [w.value(n.args[0]), w.value(0.0), w.value(6.0)]
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
    "leaky_relu.default": _slope,
    "silu.default": _Writer.silu,
    "gelu.default": _Writer.gelu,
    "adaptive_avg_pool2d.default": _Writer.adaptive,
    "softmax.int": _Writer.softmax,
    "layer_norm.default": _Writer.layer_norm,
    "group_norm.default": _Writer.group_norm,
    "reshape": _Writer.reshape,
    "expand": _Writer.expand,
    "permute": _Writer.permute,
    "slice": _Writer.slice,
    "select": _Writer.select,
    "cat.default": _Writer.cat,
    "pad.default": _Writer.pad,
    "roll.default": _Writer.roll,
    "einsum.default": _Writer.einsum,
    "scaled_dot_product_attention.default": _Writer.attention,
    "upsample_nearest2d.vec": _Writer.upsample,
    "prelu.default": _Writer.prelu,
    "masked_fill.Scalar": _Writer.masked_fill,
}
