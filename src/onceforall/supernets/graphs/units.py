"""Channels as numbers: which of them stay or go together.

Every channel of a traced network gets a number, its *id*. Ids that can only be kept or dropped
together are united; a set of united ids is a *unit*. Id 0 is the rigid unit: it always stays.

The ids of a tensor are an array with one axis for each of its dimensions, of length 1 where the
ids are the same along it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(slots=True)
class Units:
    """Ids and which of them are united.

    Attributes:
        parent: A united id for each id, never larger; that of a unit's smallest id is itself.
        changes: How often ids were united.
    """

    parent: Ids = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    changes: int = 0

    def fresh(self, count: int) -> Ids:
        """Return ``count`` new ids, each a unit of its own, ``(count,)``."""
        start = len(self.parent)
        ids = np.arange(start, start + count, dtype=np.int64)
        self.parent = np.concatenate([self.parent, ids])
        return ids

    def find(self, ids: Ids) -> Ids:
        """Return the smallest id of each id's unit."""
        root = self.parent[ids]
        while True:
            above = self.parent[root]
            if np.array_equal(above, root):
                return root
            root = above

    def unite(self, a: Ids, b: Ids) -> None:
        """Unite ids pairwise, broadcast against each other."""
        first, second = np.broadcast_arrays(a, b)
        x, y = self.find(first.ravel()), self.find(second.ravel())
        while True:
            apart = x != y
            if not apart.any():
                return
            x, y = x[apart], y[apart]
            self.changes += 1
            self.parent[np.maximum(x, y)] = np.minimum(x, y)
            x, y = self.find(x), self.find(y)

    def fix(self, ids: Ids) -> None:
        """Make ids rigid."""
        self.unite(ids, np.zeros(1, dtype=np.int64))

    def tie(self, ids: Ids, dims: Iterable[int]) -> Ids:
        """Unite ids along dimensions and return them with length 1 there."""
        for dim in dims:
            if ids.shape[dim] > 1:
                first = np.take(ids, [0], axis=dim)
                self.unite(ids, first)
                ids = first
        return ids

    def reduced(self, ids: Ids, dims: Iterable[int]) -> Ids:
        """Return the ids of what is left when dimensions are summed over, with length 1 there.

        A sum over channels needs none of them in particular: it is rigid. A sum over the channels
        of each head stands for the whole head.
        """
        dims = [dim for dim in dims if ids.shape[dim] > 1]
        if not dims:
            return ids
        others = [d for d in range(ids.ndim) if ids.shape[d] > 1 and d not in dims]
        if others:
            return self.tie(ids, dims)
        return np.zeros((1,) * ids.ndim, dtype=np.int64)


def rigid(ndim: int) -> Ids:
    """Return the ids of a tensor without elastic channels."""
    return np.zeros((1,) * ndim, dtype=np.int64)


def varying(ids: Ids) -> list[int]:
    """Return the dimensions along which ids differ."""
    return [dim for dim, size in enumerate(ids.shape) if size > 1]


def compressed(ids: Ids) -> Ids:
    """Return ids with length 1 along dimensions where they do not differ."""
    for dim in varying(ids):
        first = np.take(ids, [0], axis=dim)
        if np.array_equal(np.broadcast_to(first, ids.shape), ids):
            ids = first
    return ids


def reshaped(ids: Ids, shape: Shape, result: Shape) -> Ids:
    """Return the ids of a tensor after a reshape.

    Dimensions are matched in groups with the same number of values; a group whose ids do not
    differ stays at length 1.

    Args:
        ids: Ids of the operand.
        shape: Its sizes.
        result: Sizes of the result.
    """
    expanded, target = list(ids.shape), []
    for before, after in _groups(shape, result):
        if all(ids.shape[dim] == 1 for dim in before):
            target += [1] * len(after)
            continue
        for dim in before:
            expanded[dim] = shape[dim]
        target += [result[dim] for dim in after]
    return compressed(np.broadcast_to(ids, expanded).reshape(target))


def _groups(shape: Shape, result: Shape) -> list[tuple[list[int], list[int]]]:
    """Match the dimensions of two shapes of the same number of values."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(result):
        before, after = (
            list(range(i, min(i + 1, len(shape)))),
            list(range(j, min(j + 1, len(result)))),
        )
        left = num_values([shape[dim] for dim in before])
        right = num_values([result[dim] for dim in after])
        i, j = i + len(before), j + len(after)
        while left != right:
            if left < right:
                before.append(i)
                left, i = left * shape[i], i + 1
            else:
                after.append(j)
                right, j = right * result[j], j + 1
        groups.append((before, after))
    return groups


def aligned(ids: Ids, ndim: int) -> Ids:
    """Return ids with leading dimensions of length 1 up to ``ndim``."""
    return ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)


def aligned_shape(shape: Sequence[int], ndim: int) -> Shape:
    """Return a shape with leading ones up to ``ndim``."""
    return (1,) * (ndim - len(shape)) + tuple(shape)


def num_values(shape: Sequence[int]) -> int:
    """Return how many values a tensor of a shape has."""
    return math.prod(shape)
