"""Cutting tensors to the channels that a subnet keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onceforall.ops.functional import trains_in_eager_mode
from onceforall.supernets.graphs.parts import Segment
from onceforall.supernets.graphs.spec import GraphSpec

# Positions kept along a dimension: all, the first ones, or these.
Index = None | int | Tensor
# Numbers of a kernel above which its own gradient pays.
_LARGE = 2**16
# A dimension and the positions that are kept along it.
Cut = tuple[int, Index]


class Indices:
    """Positions that a subnet keeps of patterns; each is worked out once."""

    def __init__(self, kept: Sequence[int], spec: GraphSpec, order: Tensor) -> None:
        orders = order.cpu().numpy()
        self.device = order.device
        self.keep: list[NDArray[np.bool_]] = []
        start = 0
        for group, count in zip(spec.groups, kept, strict=True):
            mask = np.zeros(group.units, dtype=bool)
            mask[orders[start : start + group.units][:count]] = True
            self.keep.append(mask)
            start += group.units
        self.found: dict[tuple[Segment, ...], Index] = {}

    def of(self, pattern: tuple[Segment, ...]) -> Index:
        """Return the positions kept along a dimension."""
        if pattern not in self.found:
            self.found[pattern] = self._index(pattern)
        return self.found[pattern]

    def _index(self, pattern: tuple[Segment, ...]) -> Index:
        masks = [
            np.ones(units * repeats, dtype=bool)
            if group < 0
            else np.repeat(self.keep[group][first : first + units], repeats)
            for group, first, units, repeats in pattern
        ]
        mask = np.concatenate(masks) if masks else np.ones(0, dtype=bool)
        kept = int(mask.sum())
        if kept == len(mask):
            return None
        if mask[:kept].all():
            return kept
        return torch.from_numpy(np.flatnonzero(mask)).to(self.device)


def taken(tensor: Tensor, dim: int, index: Index) -> Tensor:
    """Return the positions of a tensor along a dimension."""
    if index is None:
        return tensor
    if isinstance(index, int):
        return tensor.narrow(dim, 0, index)
    return tensor.index_select(dim, index)


def cut_out(whole: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Return the part of a tensor at the positions kept, without gaps, in the whole one's layout.

    The gradient of a large kernel under channels_last is written once, to where it belongs in
    memory. PyTorch's goes through zeros for each dimension, in another layout than the kernel's: a
    quarter of a training step of a ResNet-18 at half width. It is as fast or faster elsewhere.
    """
    is_large = whole.numel() > _LARGE and not whole.is_contiguous()
    if is_large and trains_in_eager_mode(whole):
        part: Tensor = _CutOut.apply(whole, cuts)
        return part
    part = whole
    for dim, index in cuts:
        part = taken(part, dim, index)
    return laid_out_as(part, whole)


class _CutOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, cuts: Sequence[Cut]) -> Tensor:
        dims = _memory_order(whole)
        in_order = whole.permute(dims)
        index, sizes = _flat(in_order, {dims.index(dim): kept for dim, kept in cuts})
        ctx.dims, ctx.shape, ctx.index = dims, in_order.shape, index
        part = in_order.reshape(-1).index_select(0, index)
        return part.view(sizes).permute(_inverse(dims))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        whole = grad.new_zeros(math.prod(ctx.shape))
        whole.scatter_(0, ctx.index, grad.permute(ctx.dims).reshape(-1))
        return whole.view(ctx.shape).permute(_inverse(ctx.dims)), None


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions of a large kernel as they lie in memory, the slowest first."""
    return (0, 2, 3, 1) if tensor.ndim == 4 else tuple(range(tensor.ndim))


def _inverse(dims: Sequence[int]) -> list[int]:
    return [dims.index(dim) for dim in range(len(dims))]


def _flat(x: Tensor, cuts: Mapping[int, Index]) -> tuple[Tensor, list[int]]:
    """Return where the values kept lie in a tensor without gaps, and their shape."""
    places = torch.zeros(1, dtype=torch.int64, device=x.device)
    sizes = []
    for dim, size in enumerate(x.shape):
        kept = cuts.get(dim)
        if not isinstance(kept, Tensor):
            kept = torch.arange(size if kept is None else kept, device=x.device)
        places = (places[:, None] + kept * math.prod(x.shape[dim + 1 :])).view(-1)
        sizes.append(len(kept))
    return places, sizes


def put(target: Tensor, index: Index, value: Tensor) -> None:
    """Write to positions of a tensor along its first dimension."""
    if isinstance(index, Tensor):
        target.index_copy_(0, index, value)
    else:
        target[: len(target) if index is None else index].copy_(value)


def laid_out_as(value: Tensor, whole: Tensor) -> Tensor:
    """Return a cut tensor without gaps, in the memory format of the whole one."""
    if value.ndim == 4 and not whole.is_contiguous():
        return value.contiguous(memory_format=torch.channels_last)
    return value.contiguous()


def add_scores(scores: list[Tensor], importance: Tensor, pattern: tuple[Segment, ...]) -> None:
    """Add each unit's share of a tensor's importance ``(C,)``."""
    total = float(importance.sum()) or 1.0
    start = 0
    for group, first, units, repeats in pattern:
        part = importance[start : start + units * repeats]
        start += units * repeats
        if group >= 0:
            scores[group][first : first + units] += part.view(units, repeats).sum(dim=1) / total
