"""Rules: what each kind of operator does to the ids of channels.

Convolutions and linear layers make new channels; additions unite those of their operands;
reshapes, cuts and concatenations are carried out on the ids themselves; products of matrices unite
what they sum over. Whatever has no rule is rigid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onceforall.graph import Batch, Computed, Node, Ref, Weight
from onceforall.supernets.graphs.operands import Operands, size_of
from onceforall.supernets.graphs.operators import (
    CONVOLUTIONS,
    ELEMENTWISE,
    REDUCTIONS,
    SPATIAL,
    UNARY,
    convolution_groups,
    layer_weight,
)
from onceforall.supernets.graphs.shapes import padded_dims
from onceforall.supernets.graphs.units import (
    Ids,
    Shape,
    aligned,
    aligned_shape,
    reshaped,
    rigid,
    varying,
)


def unknown(o: Operands, node: Node) -> Ids:
    """Make the operands of an operator without a rule rigid."""
    for part in node.parts():
        if isinstance(part, Ref):
            o.units.fix(o.of(part))
        elif isinstance(part, Weight | Computed):
            o.bind(part, rigid(len(o.shapes[part])))
    o.found.problems[node.name] = f"operator {node.op} has no rule"
    return rigid(len(node.shape))


def unary(o: Operands, node: Node) -> Ids:
    """The operand's ids."""
    return o.of(node.args[0])


def elementwise(o: Operands, node: Node) -> Ids:
    """Unite the ids of operands that are broadcast against each other."""
    ndim = len(node.shape)
    operands = [part for part in node.parts() if isinstance(part, Ref | Weight | Computed)]
    images = [each for each in operands if isinstance(each, Ref)]
    ids = o.united([(o.of(each), o.shape(each)) for each in images], ndim)
    for constant in operands:
        if not isinstance(constant, Ref):
            o.beside(constant, ids)
    return ids


def convolution(o: Operands, node: Node) -> Ids:
    """Make new channels; depthwise convolutions pass them on, grouped ones tie groups."""
    weight, bias = layer_weight(node), node.args[2]
    inputs = o.channels_of(node)
    groups = convolution_groups(node)
    outputs, ndim = size_of(node.shape[1]), len(node.shape)
    if groups == 1:
        o.cut(weight, 1, inputs)
        made = o.make(outputs)
    elif groups == len(inputs):
        made = np.repeat(inputs, outputs // groups)
    else:
        rows = inputs.reshape(groups, -1)
        o.units.unite(rows, rows[:, :1])
        made = np.repeat(rows[:, 0], outputs // groups)
    o.cut(weight, 0, made)
    if bias is not None:
        o.bind(bias, made)
    return made.reshape(1, -1, *(1,) * (ndim - 2))


def linear(o: Operands, node: Node) -> Ids:
    """Make new channels from those of the last dimension."""
    x, _, bias = (*node.args, None)[:3]
    return product_with(o, node, x, layer_weight(node), bias, in_dim=1)


def product_with(o: Operands, node: Node, x: Any, weight: Any, bias: Any, *, in_dim: int) -> Ids:
    """Return the ids of a product with a weight matrix."""
    if not isinstance(weight, Weight | Computed) or not isinstance(x, Ref):
        return unknown(o, node)
    ids, last = o.of(x), o.of(x).ndim - 1
    if last in varying(ids):
        ids = o.units.tie(ids, [dim for dim in varying(ids) if dim != last])
    size = o.shapes[weight][in_dim]
    inputs = np.array(np.broadcast_to(ids if last in varying(ids) else 0, (*(1,) * last, size)))
    if last not in varying(ids) and ids.size == 1:
        inputs[...] = ids.ravel()
    o.cut(weight, in_dim, inputs.ravel())
    outputs = o.shapes[weight][1 - in_dim]
    others = [dim for dim in varying(ids) if dim != last]
    made = np.zeros(outputs, dtype=np.int64) if others else o.make(outputs)
    o.cut(weight, 1 - in_dim, made)
    if bias is not None:
        o.bind(bias, made)
    return ids if others else made.reshape(*(1,) * last, -1)


def batch_norm(o: Operands, node: Node) -> Ids:
    """Pass channels on; the norm's tensors are cut as they are."""
    ids = o.channels_of(node)
    o.bind(Weight(f"{node.module}."), ids)
    return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))


def layer_norm(o: Operands, node: Node) -> Ids:
    """Pass ids on; scale and shift are cut as the normalised dimensions are."""
    ids, count = o.of(node.args[0]), len(node.args[1])
    for constant in node.args[2:4]:
        if isinstance(constant, Weight | Computed):
            own = o.units.reduced(ids, range(ids.ndim - count))
            o.bind(constant, own.reshape(own.shape[ids.ndim - count :]))
        elif constant is not None:
            return unknown(o, node)
    return o.of(node.args[0])


def group_norm(o: Operands, node: Node) -> Ids:
    """Pass channels on; those that are normalised together are tied where there are groups."""
    ids, groups = o.channels_of(node), int(node.args[1])
    if groups > 1:
        rows = ids.reshape(groups, -1)
        o.units.unite(rows, rows[:, :1])
    for constant in node.args[2:4]:
        if constant is not None:
            o.bind(constant, ids)
    return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))


def spatial(o: Operands, node: Node) -> Ids:
    """Pass channels on; no spatial dimension may have any."""
    ids, ndim = o.of(node.args[0]), len(node.shape)
    last = 2 if "2d" in node.op else 1
    if any(dim >= ndim - last for dim in varying(ids)):
        return o.fixed(ids, node, f"{node.op}: channels lie along a spatial dimension")
    return ids


def prelu(o: Operands, node: Node) -> Ids:
    """Pass channels on; the slopes are cut as they are."""
    x, slopes = node.args
    if o.shapes.get(slopes) == (1,):
        o.bind(slopes, rigid(1))
        return o.of(x)
    ids = o.channels_of(node)
    o.bind(slopes, ids)
    return ids.reshape(1, -1, *(1,) * (len(node.shape) - 2))


def reduction(o: Operands, node: Node) -> Ids:
    """Drop the dimensions that are summed over."""
    ids, ndim = o.of(node.args[0]), o.of(node.args[0]).ndim
    dims, keep = reduced_dims(node, ndim)
    ids = o.units.reduced(ids, dims)
    return ids if keep else ids.reshape([n for d, n in enumerate(ids.shape) if d not in dims])


def softmax(o: Operands, node: Node) -> Ids:
    """Pass ids on; none may differ along the dimension that sums to 1."""
    ids = o.of(node.args[0])
    dim = node.args[1] % ids.ndim
    if dim not in varying(ids):
        return ids
    if len(varying(ids)) == 1:
        return o.fixed(ids, node, f"{node.op} over channels")
    o.units.tie(ids, [dim])
    return ids


def reshape(o: Operands, node: Node) -> Ids:
    """Carry a reshape out."""
    result = tuple(size_of(size) for size in node.shape)
    return reshaped(o.of(node.args[0]), o.shape(node.args[0]), result)


def permute(o: Operands, node: Node) -> Ids:
    """Carry a permutation out."""
    return np.transpose(o.of(node.args[0]), node.args[1])


def select(o: Operands, node: Node) -> Ids:
    """Carry a selection out; what is selected stays."""
    ids, dim = o.of(node.args[0]), node.args[1]
    if dim not in varying(ids):
        same: Ids = np.take(ids, 0, axis=dim)
        return same
    part: Ids = np.take(ids, node.args[2], axis=dim)
    if not varying(part):
        o.fixed(ids, node, "select of one channel")
    else:
        o.units.tie(ids, [dim])
    return part


def slice_(o: Operands, node: Node) -> Ids:
    """Carry a cut out."""
    x, dim, start, end, step = node.args
    ids = o.of(x)
    if dim not in varying(ids):
        return ids
    if step != 1 or isinstance(start, Batch) or isinstance(end, Batch):
        o.fixed(ids, node, f"every {step}th channel is taken")
        return rigid(ids.ndim)
    return ids.take(range(start, end), axis=dim)


def expand(o: Operands, node: Node) -> Ids:
    """Give channels that are all alike ids of their own, so that any may go."""
    x, shape = node.args[0], o.shape(node.args[0])
    if not isinstance(x, Ref):
        wide = [dim for dim, size in enumerate(shape) if size > 1]
        if len(wide) != 1 or x in o.found.whole:
            return rigid(len(node.shape))
        ids = o.make(shape[wide[0]]).reshape([-1 if d == wide[0] else 1 for d in range(len(shape))])
        o.bind(x, ids)
        return aligned(ids, len(node.shape))
    ids = aligned(o.of(x), len(node.shape))
    old = aligned_shape(shape, len(node.shape))
    grown = [
        dim for dim, size in enumerate(node.shape)
        if old[dim] == 1 and not isinstance(size, Batch) and size != 1
    ]  # fmt: skip
    if len(grown) != 1 or varying(ids) or ids.any():
        return ids
    made = o.make(size_of(node.shape[grown[0]]))
    return made.reshape([-1 if d == grown[0] else 1 for d in range(ids.ndim)])


def cat(o: Operands, node: Node) -> Ids:
    """Carry a concatenation out; along other dimensions operands are united."""
    parts, dim = node.args[0], node.args[1]
    ids = [o.of(part) for part in parts]
    shapes = [o.shape(part) for part in parts]
    images = [i for i, part in enumerate(parts) if isinstance(part, Ref)]
    if any(other != dim for i in images for other in varying(ids[i])):
        sides = [(o.units.reduced(ids[i], [dim]), shapes[i]) for i in images]
        result = o.united(sides, len(node.shape))
        for i, part in enumerate(parts):
            if i not in images:
                o.beside(part, result)
        return result
    for part in parts:
        if not isinstance(part, Ref):
            o.bind(part, rigid(len(o.shapes[part])))
    if not any(varying(each) for each in ids):
        return rigid(len(node.shape))
    whole = [
        np.broadcast_to(each, [s if d == dim else 1 for d, s in enumerate(shape)])
        for each, shape in zip(ids, shapes, strict=True)
    ]
    return np.concatenate(whole, axis=dim)


def pad(o: Operands, node: Node) -> Ids:
    """Carry padding out; channels that are padded go with what they are added to."""
    ids = o.of(node.args[0])
    mode = node.args[2] if len(node.args) > 2 else "constant"
    for dim, (before, after) in padded_dims(node, ids.ndim).items():
        if dim not in varying(ids):
            continue
        if mode != "constant" or before < 0 or after < 0:
            return o.fixed(ids, node, f"channels are padded ({mode})")
        if len(varying(ids)) > 1:
            ids = o.units.tie(ids, [dim])
            continue
        ends = [
            o.units.fresh(count).reshape([-1 if d == dim else 1 for d in range(ids.ndim)])
            for count in (before, after)
        ]
        ids = np.concatenate([ends[0], ids, ends[1]], axis=dim)
    return ids


def roll(o: Operands, node: Node) -> Ids:
    """Pass ids on; channels are not rolled."""
    ids = o.of(node.args[0])
    dims = node.args[2] if len(node.args) > 2 else range(ids.ndim)
    if any(dim % ids.ndim in varying(ids) for dim in dims):
        return o.fixed(ids, node, f"{node.op} of channels")
    return ids


def matmul(o: Operands, node: Node) -> Ids:
    """Unite what a product of matrices sums over."""
    a, b = node.args[:2]
    if isinstance(b, Weight | Computed) and len(o.shapes[b]) == 2 and isinstance(a, Ref):
        return product_with(o, node, a, b, None, in_dim=0)
    if not isinstance(a, Ref) or not isinstance(b, Ref):
        return unknown(o, node)
    if min(o.of(a).ndim, o.of(b).ndim) < 2:
        return unknown(o, node)
    ndim = len(node.shape)
    batch = list(range(2, ndim))
    left = [*batch[len(batch) - o.of(a).ndim + 2 :], 0, -1]
    right = [*batch[len(batch) - o.of(b).ndim + 2 :], -1, 1]
    return o.contraction([a, b], [left, right], [*batch, 0, 1])


def einsum(o: Operands, node: Node) -> Ids:
    """Unite what an Einstein sum sums over."""
    equation, operands = node.args[:2]
    terms, arrow, result = equation.replace(" ", "").partition("->")
    labels = terms.split(",")
    plain = all(len(set(term)) == len(term) for term in labels) and "." not in equation
    if not plain or not arrow or len(operands) != 2:
        return unknown(o, node)
    if not all(isinstance(each, Ref) for each in operands):
        return unknown(o, node)
    return o.contraction(operands, [[*map(ord, t)] for t in labels], [*map(ord, result)])


def attention(o: Operands, node: Node) -> Ids:
    """Unite each head of queries, keys and values."""
    query, key, value, *rest = node.args
    mask = rest[0] if rest else dict(node.kwargs).get("attn_mask")
    if len(node.shape) < 3 or dict(node.kwargs).get("enable_gqa"):
        return unknown(o, node)
    ndim = len(node.shape)
    batch = list(range(4, 4 + ndim - 2))
    scores = o.contraction([query, key], [[*batch, 0, 2], [*batch, 1, 2]], [*batch, 0, 1])
    if isinstance(mask, Ref):
        scores = o.united(
            [(scores, scores_shape(o, query, key)), (o.of(mask), o.shape(mask))], ndim
        )
    elif mask is not None:
        o.beside(mask, scores)
    sizes = scores_shape(o, query, key)
    return o.contracted(
        [(scores, sizes), (o.of(value), o.shape(value))],
        [[*batch, 0, 1], [*batch, 1, 3]],
        [*batch, 0, 3],
    )


def scores_shape(o: Operands, query: Any, key: Any) -> Shape:
    """Return the sizes of attention scores."""
    return (*o.shape(query)[:-1], o.shape(key)[-2])


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


Rule = Callable[[Operands, Node], Ids]
RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY | {"dropout"}, unary),
    **dict.fromkeys(ELEMENTWISE - {"prelu.default"}, elementwise),
    **dict.fromkeys(SPATIAL, spatial),
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(REDUCTIONS, reduction),
    "linear.default": linear,
    "batch_norm": batch_norm,
    "layer_norm.default": layer_norm,
    "group_norm.default": group_norm,
    "prelu.default": prelu,
    "softmax.int": softmax,
    "log_softmax.int": softmax,
    "reshape": reshape,
    "permute": permute,
    "select": select,
    "slice": slice_,
    "expand": expand,
    "cat.default": cat,
    "pad.default": pad,
    "roll.default": roll,
    "matmul.default": matmul,
    "bmm.default": matmul,
    "einsum.default": einsum,
    "scaled_dot_product_attention.default": attention,
}
