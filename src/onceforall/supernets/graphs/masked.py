"""The reference that cutting is checked against: the whole network with masked channels.

Every operation runs at full size, and the channels that a subnet drops are set to 0 after it. What
a smaller network computes must be the same, whatever was cut where. Norms and means over channels
take their statistics over the channels that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.graph import Batch, Computed, DType, Node, NormInfo, Ref, Weight
from onceforall.ops.functional import center_crop
from onceforall.supernets.graphs.channels import analysed, constant_shapes
from onceforall.supernets.graphs.groups import Groups, channel_groups
from onceforall.supernets.graphs.operators import function_of, number_format, run_constant
from onceforall.supernets.graphs.rules import reduced_dims
from onceforall.supernets.graphs.run import OWN
from onceforall.supernets.graphs.spec import GraphSpec, subnet_of
from onceforall.supernets.graphs.trace import Program


@torch.no_grad()
def masked_logits(
    program: Program,
    spec: GraphSpec,
    arch: Arch,
    images: Tensor,
    *,
    keep: Mapping[int, Tensor],
    tensors: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return what a subnet must compute, by masking the whole network.

    Args:
        program: Trace of the network at ``arch.resolution``.
        spec: Its elastic form.
        arch: The subnet.
        images: Images ``(B, 3, R, R)``, of the number format to compute in.
        keep: Which units of each group stay, ``(units,)`` bool.
        tensors: The network's tensors; those of the trace by default.
    """
    given = program.tensors if tensors is None else tensors
    own = {
        name: tensor.to(images.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in given.items()
    }
    computed: list[Tensor] = []
    for node in program.computed:
        computed.append(run_constant(node, own, computed))
    groups = channel_groups(program, analysed(program, constant_shapes(program)))
    subnet = subnet_of(spec, arch)
    steps = dict(subnet.steps)
    results: dict[int, Tensor] = {0: images}
    for index, skipped in steps.items():
        if index == 0:
            continue
        node = program.nodes[index]
        inputs = {old: new for old, new in zip(node.inputs, skipped.inputs, strict=True)}

        def value(part: Any, inputs: dict[int, int] = inputs) -> Any:
            if isinstance(part, tuple):
                return [value(item, inputs) for item in part]
            if isinstance(part, Ref):
                return results[inputs[part.index]]
            if isinstance(part, Weight):
                return own[part.name]
            if isinstance(part, Computed):
                return computed[part.index]
            if isinstance(part, Batch):
                return part.times * len(images)
            return number_format(part, (images,)) if isinstance(part, DType) else part

        args = [value(arg) for arg in node.args]
        if index in subnet.kernels:
            args[1] = _cropped(args[1], subnet.kernels[index])
        named = {key: value(part) for key, part in node.kwargs}
        mask = None
        if node.inputs:
            mask = _mask(node.inputs[0], program, groups, keep, len(images))
        y = _run(node, args, named, own, program.norms, mask)
        after = _mask(index, program, groups, keep, len(images))
        results[index] = y if after is None else y * after
    return results[subnet.output]


def _mask(
    index: int, program: Program, groups: Groups, keep: Mapping[int, Tensor], batch: int
) -> Tensor | None:
    """Return the mask of a node's result, with length 1 along other dimensions."""
    if index not in groups.widths:
        return None
    dim, _ = groups.widths[index]
    ids = groups.vectors[index]
    of_group, of_unit = groups.group_of[ids].tolist(), groups.unit_of[ids].tolist()
    flags = [g < 0 or bool(keep[g][u]) for g, u in zip(of_group, of_unit, strict=True)]
    size = program.nodes[index].shape[dim]
    if isinstance(size, Batch):  # ids count a batch twice
        half = len(flags) // 2
        outer = flags[:half] == flags[half:]
        flags = flags[:half] * batch if outer else [f for f in flags[::2] for _ in range(batch)]
    shape = [1] * len(program.nodes[index].shape)
    shape[dim] = len(flags)
    return torch.tensor(flags).view(shape)


def _run(
    node: Node,
    args: list[Any],
    named: dict[str, Any],
    own: Mapping[str, Tensor],
    norms: Mapping[str, NormInfo],
    mask: Tensor | None,
) -> Tensor:
    """Run one operation; statistics over channels count those that are kept."""
    x: Tensor = args[0]
    if node.op == "batch_norm":
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (own.get(f"{node.module}.{part}") for part in parts)
        eps = norms[node.module].eps
        return torch.nn.functional.batch_norm(x, mean, var, scale, shift, eps=eps)
    if node.op == "dropout.default":
        return x
    if mask is not None and node.op == "layer_norm.default":
        dims = list(range(x.ndim - len(args[1]), x.ndim))
        return _normalised(x, mask, dims, args)
    if mask is not None and node.op == "group_norm.default" and args[1] == 1:
        scale_shape = (1, -1) + (1,) * (x.ndim - 2)
        y = _normalised(x, mask, list(range(1, x.ndim)), [None, None, None, None, args[4]])
        weight: Tensor = args[2].view(scale_shape)
        bias: Tensor = args[3].view(scale_shape)
        return y * weight + bias
    if mask is not None and node.op == "mean.dim":
        dims, keep = reduced_dims(node, x.ndim)
        count = (mask.expand_as(x).to(x.dtype)).sum(dims, keepdim=keep).clamp_min(1)
        return x.sum(dims, keepdim=keep) / count
    result: Tensor = (OWN.get(node.op) or function_of(node.op))(*args, **named)
    return result


def _normalised(x: Tensor, mask: Tensor, dims: list[int], args: list[Any]) -> Tensor:
    """Return a layer norm whose statistics are those of the channels kept."""
    kept = mask.expand_as(x).to(x.dtype)
    count = kept.sum(dims, keepdim=True).clamp_min(1)
    mean = (x * kept).sum(dims, keepdim=True) / count
    var = ((x - mean) ** 2 * kept).sum(dims, keepdim=True) / count
    y: Tensor = (x - mean) / (var + args[4]).sqrt()
    y = y if args[2] is None else y * args[2]
    return y if len(args) < 4 or args[3] is None else y + args[3]


def _cropped(weight: Tensor, side: int) -> Tensor:
    """Return filters of the whole size that are 0 outside of their centre."""
    if side >= weight.shape[-1]:
        return weight
    result = torch.zeros_like(weight)
    center_crop(result, side).copy_(center_crop(weight, side))
    return result
