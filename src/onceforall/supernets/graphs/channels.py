"""Which channels of a traced network go together: one rule for each kind of operator.

The rules are those of `units.py`: convolutions and linear layers make new channels; additions
unite those of their operands; reshapes, cuts and concatenations are carried out on the ids
themselves; products of matrices unite what they sum over. Whatever has no rule is rigid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onceforall.graph import Batch, Computed, Node, Ref, Weight
from onceforall.supernets.graphs.operators import (
    CONVOLUTIONS,
    ELEMENTWISE,
    REDUCTIONS,
    SPATIAL,
    UNARY,
)
from onceforall.supernets.graphs.trace import Program
from onceforall.supernets.graphs.units import (
    Ids,
    Shape,
    Units,
    aligned,
    aligned_shape,
    reshaped,
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


def analysed(program: Program, shapes: Mapping[Constant, Shape]) -> Channels:
    """Return the ids of a program, united until every tensor can be cut along one dimension.

    Args:
        program: Traced network.
        shapes: Shape of every constant that operations on images read.
    """
    rules = _Rules(nodes=program.nodes, shapes=shapes)
    for index, node in enumerate(program.nodes):
        rules.found.ids.append(rules.result(index, node))
    rules.found.units.fix(rules.found.ids[program.output])
    for (constant, dim), ids in list(rules.found.along.items()):
        if constant in rules.found.whole:  # a weight that is also a number: leave it alone
            rules.found.units.fix(ids)
            rules.found.units.fix(rules.found.whole.pop(constant))
            rules.found.along[constant, dim] = np.zeros_like(ids)
    _make_boxes(rules.found)
    return rules.found


def constant_shapes(program: Program) -> dict[Constant, Shape]:
    """Return the shape of every constant of a program."""
    shapes: dict[Constant, Shape] = {
        Weight(name): tuple(tensor.shape) for name, tensor in program.tensors.items()
    }
    return shapes | {Computed(i): tuple(node.shape) for i, node in enumerate(program.computed)}


def _make_boxes(found: Channels) -> None:
    """Unite ids until each tensor's differ along one dimension at most: the longest."""
    units = found.units
    while True:
        before = units.changes
        for ids in (*found.ids, *found.whole.values()):
            dims = varying(ids)
            if len(dims) < 2:
                continue
            root = units.find(ids)
            differ = [
                dim for dim in dims if not np.array_equal(np.broadcast_to(
                    np.take(root, [0], axis=dim), root.shape), root)
            ]  # fmt: skip
            if len(differ) > 1:
                longest = max(differ, key=lambda dim: ids.shape[dim])
                units.tie(ids, [dim for dim in differ if dim != longest])
        if units.changes == before:
            return


def size_of(size: Any) -> int:
    """Return a size as ids count it."""
    return _BATCH * size.times if isinstance(size, Batch) else int(size)


@dataclass(slots=True)
class _Rules:
    """The rules, applied node by node."""

    nodes: Sequence[Node]
    shapes: Mapping[Constant, Shape]
    found: Channels = field(default_factory=Channels)
    index: int = 0

    @property
    def units(self) -> Units:
        """Return the units."""
        return self.found.units

    def result(self, index: int, node: Node) -> Ids:
        """Return the ids of a node's result."""
        self.index = index
        if node.op == "input":
            return rigid(len(node.shape))
        rule = _RULES.get(node.op)
        if rule is None:
            return self.unknown(node)
        return rule(self, node)

    # -- operands -------------------------------------------------------------------------------

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

    # -- rules ----------------------------------------------------------------------------------

    def unknown(self, node: Node) -> Ids:
        """Make the operands of an operator without a rule rigid."""
        for part in node.parts():
            if isinstance(part, Ref):
                self.units.fix(self.of(part))
            elif isinstance(part, Weight | Computed):
                self.bind(part, rigid(len(self.shapes[part])))
        self.found.problems[node.name] = f"operator {node.op} has no rule"
        return rigid(len(node.shape))

    def unary(self, node: Node) -> Ids:
        """The operand's ids."""
        return self.of(node.args[0])

    def elementwise(self, node: Node) -> Ids:
        """Unite the ids of operands that are broadcast against each other."""
        ndim = len(node.shape)
        operands = [part for part in node.parts() if isinstance(part, Ref | Weight | Computed)]
        images = [each for each in operands if isinstance(each, Ref)]
        ids = self.united([(self.of(each), self.shape(each)) for each in images], ndim)
        for constant in operands:
            if not isinstance(constant, Ref):
                self.beside(constant, ids)
        return ids

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

    def convolution(self, node: Node) -> Ids:
        """Make new channels; depthwise convolutions pass them on, grouped ones tie groups."""
        _, weight, bias = node.args[:3]
        inputs = self.channels_of(node)
        groups = convolution_groups(node)
        outputs, ndim = size_of(node.shape[1]), len(node.shape)
        if not isinstance(weight, Weight | Computed):
            self.unknown(node)
            return rigid(ndim)
        if groups == 1:
            self.cut(weight, 1, inputs)
            made = self.make(outputs)
        elif groups == len(inputs):
            made = np.repeat(inputs, outputs // groups)
        else:
            rows = inputs.reshape(groups, -1)
            self.units.unite(rows, rows[:, :1])
            made = np.repeat(rows[:, 0], outputs // groups)
        self.cut(weight, 0, made)
        if bias is not None:
            self.bind(bias, made)
        return made.reshape(1, -1, *(1,) * (ndim - 2))

    def linear(self, node: Node) -> Ids:
        """Make new channels from those of the last dimension."""
        x, weight, bias = (*node.args, None)[:3]
        return self.product_with(node, x, weight, bias, in_dim=1)

    def product_with(self, node: Node, x: Any, weight: Any, bias: Any, *, in_dim: int) -> Ids:
        """Return the ids of a product with a weight matrix."""
        if not isinstance(weight, Weight | Computed) or not isinstance(x, Ref):
            return self.unknown(node)
        ids, last = self.of(x), self.of(x).ndim - 1
        if last in varying(ids):
            ids = self.units.tie(ids, [dim for dim in varying(ids) if dim != last])
        size = self.shapes[weight][in_dim]
        inputs = np.array(np.broadcast_to(ids if last in varying(ids) else 0, (*(1,) * last, size)))
        if last not in varying(ids) and ids.size == 1:
            inputs[...] = ids.ravel()
        self.cut(weight, in_dim, inputs.ravel())
        outputs = self.shapes[weight][1 - in_dim]
        others = [dim for dim in varying(ids) if dim != last]
        made = np.zeros(outputs, dtype=np.int64) if others else self.make(outputs)
        self.cut(weight, 1 - in_dim, made)
        if bias is not None:
            self.bind(bias, made)
        return ids if others else made.reshape(*(1,) * last, -1)

    def batch_norm(self, node: Node) -> Ids:
        """Pass channels on; the norm's tensors are cut as they are."""
        ids = self.channels_of(node)
        self.bind(Weight(f"{node.module}."), ids)
        return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))

    def layer_norm(self, node: Node) -> Ids:
        """Pass ids on; scale and shift are cut as the normalised dimensions are."""
        ids, count = self.of(node.args[0]), len(node.args[1])
        for constant in node.args[2:4]:
            if isinstance(constant, Weight | Computed):
                own = self.units.reduced(ids, range(ids.ndim - count))
                self.bind(constant, own.reshape(own.shape[ids.ndim - count :]))
            elif constant is not None:
                return self.unknown(node)
        return self.of(node.args[0])

    def group_norm(self, node: Node) -> Ids:
        """Pass channels on; those that are normalised together are tied where there are groups."""
        ids, groups = self.channels_of(node), int(node.args[1])
        if groups > 1:
            rows = ids.reshape(groups, -1)
            self.units.unite(rows, rows[:, :1])
        for constant in node.args[2:4]:
            if constant is not None:
                self.bind(constant, ids)
        return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))

    def spatial(self, node: Node) -> Ids:
        """Pass channels on; no spatial dimension may have any."""
        ids, ndim = self.of(node.args[0]), len(node.shape)
        last = 2 if "2d" in node.op else 1
        if any(dim >= ndim - last for dim in varying(ids)):
            return self.fixed(ids, node, f"{node.op}: channels lie along a spatial dimension")
        return ids

    def prelu(self, node: Node) -> Ids:
        """Pass channels on; the slopes are cut as they are."""
        x, slopes = node.args
        if self.shapes.get(slopes) == (1,):
            self.bind(slopes, rigid(1))
            return self.of(x)
        ids = self.channels_of(node)
        self.bind(slopes, ids)
        return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))

    def reduction(self, node: Node) -> Ids:
        """Drop the dimensions that are summed over."""
        ids, ndim = self.of(node.args[0]), self.of(node.args[0]).ndim
        dims, keep = reduced_dims(node, ndim)
        ids = self.units.reduced(ids, dims)
        return ids if keep else ids.reshape([n for d, n in enumerate(ids.shape) if d not in dims])

    def softmax(self, node: Node) -> Ids:
        """Pass ids on; none may differ along the dimension that sums to 1."""
        ids = self.of(node.args[0])
        dim = node.args[1] % ids.ndim
        if dim not in varying(ids):
            return ids
        if len(varying(ids)) == 1:
            return self.fixed(ids, node, f"{node.op} over channels")
        self.units.tie(ids, [dim])
        return ids

    def reshape(self, node: Node) -> Ids:
        """Carry a reshape out."""
        result = tuple(size_of(size) for size in node.shape)
        return reshaped(self.of(node.args[0]), self.shape(node.args[0]), result)

    def permute(self, node: Node) -> Ids:
        """Carry a permutation out."""
        return np.transpose(self.of(node.args[0]), node.args[1])

    def select(self, node: Node) -> Ids:
        """Carry a selection out; what is selected stays."""
        ids, dim = self.of(node.args[0]), node.args[1]
        if dim not in varying(ids):
            return np.take(ids, 0, axis=dim)
        part = np.take(ids, node.args[2], axis=dim)
        if not varying(part):
            self.fixed(ids, node, "select of one channel")
        else:
            self.units.tie(ids, [dim])
        return part

    def slice(self, node: Node) -> Ids:
        """Carry a cut out."""
        x, dim, start, end, step = node.args
        ids = self.of(x)
        if dim not in varying(ids):
            return ids
        if step != 1 or isinstance(start, Batch) or isinstance(end, Batch):
            self.fixed(ids, node, f"every {step}th channel is taken")
            return rigid(ids.ndim)
        return ids.take(range(start, end), axis=dim)

    def expand(self, node: Node) -> Ids:
        """Give channels that are all alike ids of their own, so that any may go."""
        x, shape = node.args[0], self.shape(node.args[0])
        if not isinstance(x, Ref):
            wide = [dim for dim, size in enumerate(shape) if size > 1]
            if len(wide) != 1 or x in self.found.whole:
                return rigid(len(node.shape))
            ids = self.make(shape[wide[0]]).reshape(
                [-1 if d == wide[0] else 1 for d in range(len(shape))]
            )
            self.bind(x, ids)
            return aligned(ids, len(node.shape))
        ids = aligned(self.of(x), len(node.shape))
        old = aligned_shape(shape, len(node.shape))
        grown = [
            dim for dim, size in enumerate(node.shape)
            if old[dim] == 1 and not isinstance(size, Batch) and size != 1
        ]  # fmt: skip
        if len(grown) != 1 or varying(ids) or ids.any():
            return ids
        made = self.make(size_of(node.shape[grown[0]]))
        return made.reshape([-1 if d == grown[0] else 1 for d in range(ids.ndim)])

    def cat(self, node: Node) -> Ids:
        """Carry a concatenation out; along other dimensions operands are united."""
        parts, dim = node.args[0], node.args[1]
        ids = [self.of(part) for part in parts]
        shapes = [self.shape(part) for part in parts]
        images = [i for i, part in enumerate(parts) if isinstance(part, Ref)]
        if any(other != dim for i in images for other in varying(ids[i])):
            sides = [(self.units.reduced(ids[i], [dim]), shapes[i]) for i in images]
            result = self.united(sides, len(node.shape))
            for i, part in enumerate(parts):
                if i not in images:
                    self.beside(part, result)
            return result
        for part in parts:
            if not isinstance(part, Ref):
                self.bind(part, rigid(len(self.shapes[part])))
        if not any(varying(each) for each in ids):
            return rigid(len(node.shape))
        whole = [
            np.broadcast_to(each, [s if d == dim else 1 for d, s in enumerate(shape)])
            for each, shape in zip(ids, shapes, strict=True)
        ]
        return np.concatenate(whole, axis=dim)

    def pad(self, node: Node) -> Ids:
        """Carry padding out; what is padded to channels always stays."""
        ids, pads = self.of(node.args[0]), node.args[1]
        mode = node.args[2] if len(node.args) > 2 else "constant"
        for place in range(len(pads) // 2):
            dim = ids.ndim - 1 - place
            before, after = pads[2 * place : 2 * place + 2]
            if dim not in varying(ids) or (before, after) == (0, 0):
                continue
            if mode != "constant" or before < 0 or after < 0:
                return self.fixed(ids, node, f"channels are padded ({mode})")
            if len(varying(ids)) > 1:
                ids = self.units.tie(ids, [dim])
                continue
            ids = np.pad(ids, [(before, after) if d == dim else (0, 0) for d in range(ids.ndim)])
        return ids

    def roll(self, node: Node) -> Ids:
        """Pass ids on; channels are not rolled."""
        ids = self.of(node.args[0])
        dims = node.args[2] if len(node.args) > 2 else range(ids.ndim)
        if any(dim % ids.ndim in varying(ids) for dim in dims):
            return self.fixed(ids, node, f"{node.op} of channels")
        return ids

    # -- products -------------------------------------------------------------------------------

    def matmul(self, node: Node) -> Ids:
        """Unite what a product of matrices sums over."""
        a, b = node.args[:2]
        if isinstance(b, Weight | Computed) and len(self.shapes[b]) == 2 and isinstance(a, Ref):
            return self.product_with(node, a, b, None, in_dim=0)
        if not isinstance(a, Ref) or not isinstance(b, Ref):
            return self.unknown(node)
        if min(self.of(a).ndim, self.of(b).ndim) < 2:
            return self.unknown(node)
        ndim = len(node.shape)
        batch = list(range(2, ndim))
        left = [*batch[len(batch) - self.of(a).ndim + 2 :], 0, -1]
        right = [*batch[len(batch) - self.of(b).ndim + 2 :], -1, 1]
        return self.contraction([a, b], [left, right], [*batch, 0, 1])

    def einsum(self, node: Node) -> Ids:
        """Unite what an Einstein sum sums over."""
        equation, operands = node.args[:2]
        terms, arrow, result = equation.replace(" ", "").partition("->")
        labels = terms.split(",")
        plain = all(len(set(term)) == len(term) for term in labels) and "." not in equation
        if not plain or not arrow or len(operands) != 2:
            return self.unknown(node)
        if not all(isinstance(each, Ref) for each in operands):
            return self.unknown(node)
        return self.contraction(operands, [[*map(ord, t)] for t in labels], [*map(ord, result)])

    def attention(self, node: Node) -> Ids:
        """Unite each head of queries, keys and values."""
        query, key, value, *rest = node.args
        mask = rest[0] if rest else dict(node.kwargs).get("attn_mask")
        if len(node.shape) < 3 or dict(node.kwargs).get("enable_gqa"):
            return self.unknown(node)
        ndim = len(node.shape)
        batch = list(range(4, 4 + ndim - 2))
        scores = self.contraction([query, key], [[*batch, 0, 2], [*batch, 1, 2]], [*batch, 0, 1])
        if isinstance(mask, Ref):
            scores = self.united(
                [(scores, self.scores_shape(query, key)), (self.of(mask), self.shape(mask))], ndim
            )
        elif mask is not None:
            self.beside(mask, scores)
        sizes = self.scores_shape(query, key)
        return self.contracted(
            [(scores, sizes), (self.of(value), self.shape(value))],
            [[*batch, 0, 1], [*batch, 1, 3]],
            [*batch, 0, 3],
        )

    def scores_shape(self, query: Any, key: Any) -> Shape:
        """Return the sizes of attention scores."""
        return (*self.shape(query)[:-1], self.shape(key)[-2])

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


def convolution_groups(node: Node) -> int:
    """Return the groups of a convolution."""
    return int(node.args[6])


def reduced_dims(node: Node, ndim: int) -> tuple[list[int], bool]:
    """Return the dimensions that a reduction sums over, and whether they stay with length 1."""
    named = dict(node.kwargs)
    place = 2 if node.op.startswith("linalg_vector_norm") else 1
    dims = named.get("dim", node.args[place] if len(node.args) > place else None)
    flags = [a for a in node.args[place + 1 :] if isinstance(a, bool)]
    keep = bool(named.get("keepdim", flags[-1] if flags else False))
    if dims is None or dims == ():
        return list(range(ndim)), keep
    dims = (dims,) if isinstance(dims, int) else dims
    return [dim % ndim for dim in dims], keep


_Rule = Callable[[_Rules, Node], Ids]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(UNARY | {"dropout"}, _Rules.unary),
    **dict.fromkeys(ELEMENTWISE - {"prelu.default"}, _Rules.elementwise),
    **dict.fromkeys(SPATIAL, _Rules.spatial),
    **dict.fromkeys(CONVOLUTIONS, _Rules.convolution),
    **dict.fromkeys(REDUCTIONS, _Rules.reduction),
    "linear.default": _Rules.linear,
    "batch_norm": _Rules.batch_norm,
    "layer_norm.default": _Rules.layer_norm,
    "group_norm.default": _Rules.group_norm,
    "prelu.default": _Rules.prelu,
    "softmax.int": _Rules.softmax,
    "log_softmax.int": _Rules.softmax,
    "reshape": _Rules.reshape,
    "permute": _Rules.permute,
    "select": _Rules.select,
    "slice": _Rules.slice,
    "expand": _Rules.expand,
    "cat.default": _Rules.cat,
    "pad.default": _Rules.pad,
    "roll.default": _Rules.roll,
    "matmul.default": _Rules.matmul,
    "bmm.default": _Rules.matmul,
    "einsum.default": _Rules.einsum,
    "scaled_dot_product_attention.default": _Rules.attention,
}
