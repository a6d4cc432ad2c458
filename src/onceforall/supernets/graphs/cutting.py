"""Cutting tensors to the channels that a subnet keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onceforall.supernets.graphs.parts import Segment
from onceforall.supernets.graphs.spec import GraphSpec

# Positions kept along a dimension: all, the first ones, or these.
Index = None | int | Tensor


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
