"""Ids of operands and results, and what rules do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onceforall.graph import Batch, Computed, Node, Ref, Weight
from onceforall.supernets.graphs.units import (
    Ids,
    Shape,
    Units,
    aligned,
    aligned_shape,
    rigid,
    varying,
)

Constant = Weight | Computed
# What a batch counts while ids are worked with: more than one, so that it is seen.
_BATCH = 2


@dataclass(slots=True)
class Channels:
    """Ids of every tensor of a program.

    Attributes:
        units: Which ids are united.
        ids: Ids of each node's result.
        whole: Ids of constants that are cut along one dimension at most.
        along: Ids of the weights of convolutions and linear layers, for each dimension cut.
        makers: First id and number of ids that each node made.
        problems: Operators without a rule, by node name, and why channels became rigid.
    """

    units: Units = field(default_factory=Units)
    ids: list[Ids] = field(default_factory=list)
    whole: dict[Constant, Ids] = field(default_factory=dict)
    along: dict[tuple[Constant, int], Ids] = field(default_factory=dict)
    makers: dict[int, tuple[int, int]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def size_of(size: Any) -> int:
    """Return a size as ids count it."""
    return _BATCH * size.times if isinstance(size, Batch) else int(size)


@dataclass(slots=True)
class Operands:
    """Ids while the nodes of a program are walked.

    Attributes:
        nodes: The program's nodes.
        shapes: Shape of every constant.
        found: What was found so far.
        index: Number of the node that is walked.
    """

    nodes: Sequence[Node]
    shapes: Mapping[Constant, Shape]
    found: Channels = field(default_factory=Channels)
    index: int = 0

    @property
    def units(self) -> Units:
        """Return the units."""
        return self.found.units

    def of(self, ref: Any) -> Ids:
        """Return the ids of an operand; those of a constant are rigid."""
        if isinstance(ref, Ref):
            return self.found.ids[ref.index]
        return rigid(len(self.shapes[ref]))

    def shape(self, ref: Any) -> Shape:
        """Return the sizes of an operand."""
        if isinstance(ref, Ref):
            return tuple(size_of(size) for size in self.nodes[ref.index].shape)
        return self.shapes[ref]

    def cut(self, constant: Any, dim: int, ids: Ids) -> None:
        """Note that a weight is cut along a dimension as ids ``(C,)`` are."""
        if not isinstance(constant, Weight | Computed):
            self.units.fix(ids)
            return
        if (constant, dim) in self.found.along:
            self.units.unite(self.found.along[constant, dim], ids)
        self.found.along[constant, dim] = ids

    def bind(self, constant: Any, ids: Ids) -> None:
        """Note that a constant is cut as ids of its number of dimensions are."""
        if constant in self.found.whole:
            self.units.unite(self.found.whole[constant], ids)
        old = self.found.whole.get(constant, ids)
        self.found.whole[constant] = ids if ids.size >= old.size else old

    def make(self, count: int) -> Ids:
        """Return new ids for channels that this node makes."""
        ids = self.units.fresh(count)
        self.found.makers[self.index] = (int(ids[0]), count)
        return ids

    def fixed(self, ids: Ids, node: Node, why: str) -> Ids:
        """Make ids rigid and note why."""
        if varying(ids):
            self.found.problems.setdefault(node.name, why)
        self.units.fix(ids)
        return rigid(ids.ndim)

    def united(self, operands: Sequence[tuple[Ids, Shape]], ndim: int) -> Ids:
        """Return the ids of operands of an elementwise operation, united."""
        pairs = [(aligned(ids, ndim), aligned_shape(shape, ndim)) for ids, shape in operands]
        dims = {dim for ids, _ in pairs for dim in varying(ids)}
        # What has no values along a dimension of channels goes with any of them.
        meet = [
            ids for ids, shape in pairs
            if not dims or ids.any() or any(shape[dim] > 1 for dim in dims)
        ]  # fmt: skip
        if not any(ids.any() for ids in meet):
            return rigid(ndim)
        for ids in meet[1:]:
            self.units.unite(meet[0], ids)
        shape = np.broadcast_shapes(*(ids.shape for ids in meet))
        return np.array(np.broadcast_to(max(meet, key=lambda ids: ids.size), shape))

    def beside(self, constant: Constant, ids: Ids) -> None:
        """Cut a constant as the tensor is that it is broadcast against."""
        shape = self.shapes[constant]
        ndim = max(ids.ndim, len(shape))
        full = aligned_shape(shape, ndim)
        wide = aligned(ids, ndim)
        own = self.units.reduced(wide, [dim for dim in varying(wide) if full[dim] == 1])
        self.bind(constant, own.reshape(own.shape[ndim - len(shape) :]))

    def channels_of(self, node: Node, dim: int = 1) -> Ids:
        """Return the ids ``(C,)`` of the first operand along ``dim``; others must not differ."""
        ids, shape = self.of(node.args[0]), self.shape(node.args[0])
        dim %= ids.ndim
        if any(other != dim for other in varying(ids)):
            ids = self.fixed(ids, node, f"{node.op}: channels lie along a spatial dimension")
        return np.array(np.broadcast_to(ids.ravel(), (shape[dim],)))

    def contraction(
        self, refs: Sequence[Any], labels: Sequence[Sequence[int]], result: Sequence[int]
    ) -> Ids:
        """Return the ids of a product of two tensors with labelled dimensions."""
        return self.contracted([(self.of(r), self.shape(r)) for r in refs], labels, result)

    def contracted(
        self,
        operands: Sequence[tuple[Ids, Shape]],
        labels: Sequence[Sequence[int]],
        result: Sequence[int],
    ) -> Ids:
        """Return the ids of a product; dimensions whose label is not in ``result`` are summed."""
        names = sorted({label for each in labels for label in each})
        spread: list[tuple[Ids, Shape]] = []
        for (ids, shape), own in zip(operands, labels, strict=True):
            order = np.argsort([names.index(label) for label in own])
            lengths = dict(zip(own, ids.shape, strict=True))
            sizes = dict(zip(own, shape, strict=True))
            spread.append((
                ids.transpose(order).reshape([lengths.get(name, 1) for name in names]),
                tuple(sizes.get(name, 1) for name in names),
            ))  # fmt: skip
        summed = [i for i, name in enumerate(names) if name not in result]
        if any(ids.shape[dim] > 1 for ids, _ in spread for dim in summed):
            self.united(spread, len(names))
        left = [
            (
                self.units.reduced(ids, summed),
                tuple(1 if d in summed else n for d, n in enumerate(s)),
            )
            for ids, s in spread
        ]
        ids = self.united(left, len(names))
        return np.transpose(ids, [names.index(name) for name in result] + summed).reshape(
            [ids.shape[names.index(name)] for name in result]
        )
