"""The operators of traced networks: what kind each is, and how it runs.

An operator that is new needs a rule for channels (`rules.RULES`), its form in ONNX
(`measure/onnx/traced.py`) and, if it multiplies, its MACs (`measure/graph_costs.py`) and what its
time depends on (`measure/latency/graphs.py`).

Every operator is one of ATen's that works on tensors, so a network that was read from a file can
call nothing else: no files, no memory that is not its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from onceforall.errors import BlueprintError
from onceforall.graph import Computed, DType, Node, Ref, Weight

# The result is the operand itself.
SAME = frozenset(
    ("alias.default", "detach.default", "lift_fresh.default", "lift_fresh_copy.default")
)

# They take no more than a shape and a number format from their operand.
CREATORS = frozenset((
    "new_zeros.default", "new_ones.default", "new_full.default", "new_empty.default",
    "zeros_like.default", "ones_like.default", "full_like.default", "empty_like.default",
))  # fmt: skip

# Spellings of reshape, expand, permute, slice, select and cat.
NORMALISED = frozenset((
    "view.default", "reshape.default", "_unsafe_view.default", "reshape_as.default",
    "view_as.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
    "squeeze.default", "squeeze.dim", "squeeze.dims", "expand.default", "expand_as.default",
    "transpose.int", "swapaxes.default", "swapdims.default", "t.default", "permute.default",
    "movedim.int", "mT.default", "slice.Tensor", "narrow.default", "select.int",
    "split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default", "unbind.int",
    "cat.default", "concat.default", "stack.default",
))  # fmt: skip

# One operand and numbers: every value of the result comes from the same value of the operand.
UNARY = frozenset((
    "relu.default", "gelu.default", "sigmoid.default", "tanh.default", "silu.default",
    "hardswish.default", "hardsigmoid.default", "hardtanh.default", "relu6.default",
    "leaky_relu.default", "elu.default", "selu.default", "celu.default", "mish.default",
    "softplus.default", "log_sigmoid.default", "clamp.default", "clamp_min.default",
    "clamp_max.default", "exp.default", "log.default", "sqrt.default", "rsqrt.default",
    "neg.default", "abs.default", "square.default", "reciprocal.default", "erf.default",
    "pow.Tensor_Scalar", "add.Scalar", "sub.Scalar", "mul.Scalar", "div.Scalar",
    "contiguous.default", "clone.default", "to.dtype", "_to_copy.default", "dropout.default",
    "feature_dropout.default", "sin.default", "cos.default", "rsub.Scalar", "threshold.default",
    "hardshrink.default", "softshrink.default", "logical_not.default", "bitwise_not.default",
))  # fmt: skip

# Several operands, broadcast against each other.
ELEMENTWISE = frozenset((
    "add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "pow.Tensor_Tensor", "maximum.default",
    "minimum.default", "addcmul.default", "addcdiv.default", "where.self", "masked_fill.Scalar",
    "lerp.Tensor", "lerp.Scalar", "prelu.default", "rsub.Tensor",
))  # fmt: skip

# Images (B, C, H, W) to images with the same channels.
SPATIAL = frozenset((
    "max_pool2d.default", "avg_pool2d.default", "adaptive_avg_pool2d.default",
    "upsample_nearest2d.vec", "upsample_bilinear2d.vec", "upsample_bicubic2d.vec",
    "_adaptive_avg_pool2d.default", "upsample_nearest2d.default", "upsample_bilinear2d.default",
    "max_pool1d.default", "avg_pool1d.default", "lp_pool2d.default",
))  # fmt: skip

CONVOLUTIONS = frozenset((
    "conv1d.default", "conv2d.default", "conv3d.default", "conv2d.padding", "conv1d.padding",
))  # fmt: skip

# Means and norms over some dimensions.
REDUCTIONS = frozenset((
    "mean.dim", "sum.dim_IntList", "amax.default", "linalg_vector_norm.default", "var.correction",
    "var.dim", "std.dim", "std.correction",
))  # fmt: skip

# They change a tensor into another, or look into its memory.
_REFUSED = frozenset((
    "set_", "set", "resize_", "resize", "resize_as_", "resize_as", "as_strided", "as_strided_",
    "_reshape_alias", "set_data", "record_stream", "_resize_output_", "_resize_output",
))  # fmt: skip

# They need no tensor to make one.
_MAKERS = frozenset(
    ("full", "arange", "zeros", "ones", "empty", "scalar_tensor", "linspace", "eye")
)


def number_format(part: DType, tensors: Iterable[Tensor]) -> torch.dtype:
    """Return a number format; where a network in float64 says float32, that is its own."""
    found: torch.dtype = getattr(torch, part.name)
    if found == torch.float32 and any(tensor.dtype == torch.float64 for tensor in tensors):
        return torch.float64
    return found


@lru_cache(maxsize=1024)
def function_of(op: str) -> Any:
    """Return ATen's function of an overload such as ``relu.default``.

    Raises:
        BlueprintError: If there is none.
    """
    name, _, overload = op.partition(".")
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    found = getattr(packet, overload, None) if packet is not None and overload else None
    if not isinstance(found, torch._ops.OpOverload) or name in _REFUSED:
        raise BlueprintError(f"operator {op!r} is not one of ATen's that networks are made of")
    takes = {str(argument.type) for argument in found._schema.arguments}
    if name not in _MAKERS and not any("Tensor" in each for each in takes):
        raise BlueprintError(f"operator {op!r} works on no tensor")
    return found


def overload_of(target: Any) -> str | None:
    """Return the name of an ATen overload, or None if ``target`` is something else."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target).removeprefix("aten.")
    return None


def is_in_place(op: str) -> bool:
    """Return whether an operator writes to its first operand."""
    arguments = function_of(op)._schema.arguments
    info = arguments[0].alias_info if arguments else None
    return info is not None and bool(info.is_write)


def is_view(op: str) -> bool:
    """Return whether the result may lie in the memory of the first operand."""
    if op in ("dropout.default", "feature_dropout.default"):  # without training they do nothing
        return True
    arguments = function_of(op)._schema.arguments
    info = arguments[0].alias_info if arguments else None
    return info is not None and not info.is_write


def functional_name(op: str) -> str | None:
    """Return the twin of an operator in place that leaves its operand alone, if there is one."""
    name, _, overload = op.partition(".")
    if not name.endswith("_") or name in ("copy_", "index_put_"):
        return None
    twin = f"{name[:-1]}.{overload}"
    packet = getattr(torch.ops.aten, name[:-1], None)
    return twin if packet is not None and hasattr(packet, overload) else None


def creator_value(op: str, args: Sequence[Any]) -> Any:
    """Return what a creator fills its tensor with."""
    if "full" in op:
        return args[-1]
    return 1 if "ones" in op else 0


def run_constant(node: Node, tensors: Mapping[str, Tensor], computed: Sequence[Tensor]) -> Tensor:
    """Run one operation on weights; of a network in float64, in float64.

    Args:
        node: The operation.
        tensors: The network's tensors by name.
        computed: Results of the operations before it.
    """

    def value(part: Any) -> Any:
        if isinstance(part, tuple):
            return [value(item) for item in part]
        if isinstance(part, Weight):
            return tensors[part.name]
        if isinstance(part, Computed):
            return computed[part.index]
        return number_format(part, tensors.values()) if isinstance(part, DType) else part

    skip = ("device", "layout", "pin_memory", "memory_format")
    kwargs = {key: value(part) for key, part in node.kwargs if key not in skip}
    if node.op.partition(".")[0] in _MAKERS:  # they have no operand to be beside
        kwargs["device"] = next((tensor.device for tensor in tensors.values()), None)
    result: Tensor = function_of(node.op)(*(value(arg) for arg in node.args), **kwargs)
    return result


def layer_weight(node: Node) -> Weight | Computed:
    """Return the weight of a convolution or linear layer.

    Raises:
        BlueprintError: If it is made of the images: such a layer is another one for each of them.
    """
    weight: Weight | Computed | Ref = node.args[1]
    if isinstance(weight, Ref):
        raise BlueprintError(f"node {node.name}: the weights of {node.op} depend on the images")
    return weight


def convolution_groups(node: Node) -> int:
    """Return the groups of a convolution.

    Raises:
        BlueprintError: If they are as many as the images: each has weights of its own.
    """
    groups = node.args[6]
    if not isinstance(groups, int):
        raise BlueprintError(f"node {node.name}: the weights of {node.op} depend on the images")
    return groups
