"""What the time of a traced network is made of: the same features as of our own layers.

Convolutions and products of matrices have an entry in the latency table where their record says
all of their shape; everything else is counted. A network's features are sums over its nodes, so
its latency stays a sum of terms that each depend on a few choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.blueprint import Activation, Conv, Linear
from onceforall.encoding import Encoding
from onceforall.errors import MeasurementError
from onceforall.graph import Batch, Graph, Node, Width
from onceforall.measure.graph_costs import Sum, node_macs, product, weight_shapes
from onceforall.measure.graph_tables import GraphTerm, TermCompiler, symbolic_shape
from onceforall.measure.latency.fit import FEATURES, is_narrow
from onceforall.measure.latency.table import Entry, Table, lookup, timing_key
from onceforall.supernets.graphs.operators import ELEMENTWISE, UNARY
from onceforall.supernets.graphs.spec import GraphSpec

Shapes = Mapping[Any, Sequence[Any]]

_CURVED = ("silu", "gelu", "hardswish", "sigmoid", "tanh", "hardsigmoid", "exp", "softplus", "mish")
_ACTIVATIONS: Mapping[str, Activation] = {
    "relu.default": "relu", "hardtanh.default": "relu6", "hardswish.default": "h_swish",
    "hardsigmoid.default": "h_sigmoid", "sigmoid.default": "sigmoid", "tanh.default": "tanh",
    "silu.default": "silu",
}  # fmt: skip
# Passing channels on: what is behind them decides whether a convolution reads a concatenation.
_THROUGH = UNARY | {"batch_norm", "max_pool2d.default", "avg_pool2d.default", "reshape", "permute"}
_PRODUCTS = (
    "conv2d.default", "linear.default", "matmul.default", "bmm.default", "einsum.default",
    "scaled_dot_product_attention.default", "conv1d.default",
)  # fmt: skip


def node_features(
    index: int, nodes: Sequence[Node], shapes: Shapes, *, output: int
) -> dict[str, Sum]:
    """Return the features of a node, without its entry in the table.

    Args:
        index: The node.
        nodes: All nodes; sizes may be symbolic.
        shapes: Shape of each weight.
        output: Node that gives the logits.
    """
    node = nodes[index]
    numbers = product(node.shape)
    inputs = Sum({})
    for before in node.inputs:
        inputs = inputs + product(nodes[before].shape)
    found: dict[str, Sum] = {}
    if index == output:
        found["networks"] = Sum({(): 1})
    name = node.op.partition(".")[0]
    if node.op in _PRODUCTS:
        kind = "pointwise_macs"
        if node.op.startswith("conv"):
            weight = shapes[node.args[1]]
            kind = "spatial_macs" if math.prod(weight[2:]) > 1 else kind
            kind = "depthwise_macs" if node.args[6] != 1 else kind
            found["weight_numbers"] = product(weight)
        elif node.op == "linear.default":
            found["weight_numbers"] = product(shapes[node.args[1]])
        found[kind] = node_macs(node, nodes, shapes)
        found["moved_numbers"] = inputs + numbers
        found["operations"] = Sum({(): 1})
    elif node.op in UNARY:
        if name in _CURVED:
            found["curved_numbers"] = numbers
    elif node.op in ELEMENTWISE:
        is_gate = len({nodes[i].shape for i in node.inputs}) > 1
        found["gated_numbers" if is_gate else "moved_numbers"] = inputs + numbers
    elif (
        "pool" in name
        or name in ("mean", "layer_norm", "softmax", "group_norm", "cat", "pad")
        or node.op == "permute"
    ):
        found["moved_numbers"] = inputs + numbers
    return found


def node_layer(index: int, nodes: Sequence[Node], shapes: Shapes) -> Entry | None:
    """Return the record that a node is measured as, and the side of its input; None without one.

    Args:
        index: The node.
        nodes: All nodes, with sizes that are numbers.
        shapes: Shape of each weight.
    """
    node = nodes[index]
    if node.op not in ("conv2d.default", "linear.default") or _reads_cat(index, nodes):
        return None
    before = [_number(size) for size in nodes[node.inputs[0]].shape]
    weight = [int(size) for size in shapes[node.args[1]]]
    if node.op == "linear.default":
        tokens = math.prod(before[:-1])
        if tokens == 1:
            return timing_key(Linear(in_features=weight[1], out_features=weight[0])), 1
        side = max(1, round(tokens**0.5))
        return Conv(in_channels=weight[1], out_channels=weight[0], **_BARE), side
    _, _, _, stride, padding, dilation, groups = node.args
    side, kernel = before[2], weight[2]
    same = kernel % 2 == 1 and tuple(padding) == (kernel // 2,) * 2
    square = weight[3] == kernel and before[3] == side and stride[0] == stride[1]
    if not square or tuple(dilation) != (1, 1):
        return None
    activation = _activation(index, nodes)
    if not same:  # like a product with all values of a window
        after = _number(node.shape[2])
        inputs = weight[1] * kernel**2
        bare = {**_BARE, "activation": activation}
        if groups != 1:
            return None
        return Conv(in_channels=inputs, out_channels=weight[0], **bare), after
    return (
        Conv(
            in_channels=weight[1] * int(groups), out_channels=weight[0], kernel_size=kernel,
            stride=stride[0], groups=int(groups), norm=False, bias=True, activation=activation,
        ),
        side,
    )  # fmt: skip


_BARE: dict[str, Any] = {"norm": False, "bias": True, "activation": "none"}


def _number(size: Any) -> int:
    return int(size.times) if isinstance(size, Batch) else int(size)


def _activation(index: int, nodes: Sequence[Node]) -> Activation:
    """Return the activation that directly follows a convolution and its norm."""
    at = index
    for after in range(index + 1, min(index + 3, len(nodes))):
        node = nodes[after]
        if node.inputs != (at,):
            break
        if node.op == "batch_norm":
            at = after
        else:
            return _ACTIVATIONS.get(node.op, "none")
    return "none"


def _reads_cat(index: int, nodes: Sequence[Node]) -> bool:
    at = nodes[index].inputs[0]
    while nodes[at].op in _THROUGH and nodes[at].inputs:
        at = nodes[at].inputs[0]
    return nodes[at].op == "cat.default"


def graph_features(table: Table, graph: Graph) -> NDArray[np.float64]:
    """Return the features ``(F,)`` of a whole network."""
    shapes = weight_shapes(graph)
    totals = dict.fromkeys(FEATURES, 0.0)
    for index in range(1, len(graph.nodes)):
        for name, number in node_features(index, graph.nodes, shapes, output=graph.output).items():
            totals[name] += number.at(())
        entry = node_layer(index, graph.nodes, shapes)
        if entry is not None:
            alone_ms = lookup(table, *entry) or 0.0
            totals["table_ms"] += alone_ms
            totals["narrow_ms"] += alone_ms * is_narrow(entry[0])
    return np.array(list(totals.values()))


def graph_entries(spec: GraphSpec, encoding: Encoding, sides: Sequence[int]) -> list[Entry]:
    """Return every distinct record of a space with every side of its input that it meets."""
    compiler = TermCompiler(spec, encoding)
    found: dict[Entry, None] = {}
    for side in sides:
        nodes = spec.nodes[spec.resolutions.index(side)]
        for index in range(1, len(nodes)):
            for _, entry in _options(compiler, index, nodes):
                if entry is not None:
                    found[entry] = None
    return list(found)


def graph_latency_terms(
    spec: GraphSpec, encoding: Encoding, table: Table, weights: Mapping[str, float], *, target: str
) -> list[GraphTerm]:
    """Return the terms of a predicted latency in milliseconds, over the genes of an encoding.

    Args:
        spec: The network.
        encoding: Of its space.
        table: Milliseconds of its layers alone.
        weights: Of the features.
        target: Where the table was measured, for errors.

    Raises:
        MeasurementError: If the table has no entry for a layer.
    """
    compiler = TermCompiler(spec, encoding)
    shapes = {cut.source: symbolic_shape(cut) for cut in spec.weights}
    sides = encoding.space.resolutions
    lists = [spec.nodes[spec.resolutions.index(side)] for side in sides]
    terms: list[GraphTerm] = []
    sums: dict[Any, dict[int, Sum]] = {}
    for index in range(1, len(lists[0])):
        for r, nodes in enumerate(lists):
            for name, number in node_features(index, nodes, shapes, output=spec.output).items():
                kernel, side = compiler.kernel_of(index)
                if name not in ("depthwise_macs", "weight_numbers"):
                    kernel, side = None, 1
                key = (compiler.depths(index), kernel, side)
                scaled = Sum({g: weights[name] * n / side**2 for g, n in number.terms.items()})
                by_side = sums.setdefault(key, {})
                by_side[r] = by_side.get(r, Sum({})) + scaled
        if weights["table_ms"] or weights["narrow_ms"]:
            terms += _table_terms(compiler, index, lists, table, weights, target)
    for key, by_side in sums.items():
        totals = [by_side.get(r, Sum({})) for r in range(len(sides))]
        terms += compiler.terms("latency_ms", key, totals)
    return terms


def _table_terms(
    compiler: TermCompiler,
    index: int,
    lists: Sequence[Sequence[Node]],
    table: Table,
    weights: Mapping[str, float],
    target: str,
) -> Iterator[GraphTerm]:
    """Yield the table's share of a node, for every choice that its record depends on."""
    rows = [list(_options(compiler, index, nodes)) for nodes in lists]
    if all(entry is None for row in rows for _, entry in row):
        return
    columns = compiler.columns_of(index)

    def share(entry: Entry | None) -> float:
        if entry is None:
            return 0.0
        weight = weights["table_ms"] + weights["narrow_ms"] * is_narrow(entry[0])
        alone_ms = lookup(table, *entry)
        if alone_ms is None:
            layer, size = entry
            raise MeasurementError(
                f"the latency table of {target} has no entry {layer} at {size} px: it is of "
                "another network, or of other sizes"
            )
        return weight * alone_ms

    by_side = [np.array([share(entry) for _, entry in row]) for row in rows]
    yield compiler.dense("latency_ms", index, columns, by_side)


def _options(
    compiler: TermCompiler, index: int, nodes: Sequence[Node]
) -> Iterator[tuple[tuple[int, ...], Entry | None]]:
    """Yield a node's record for every combination of the choices that it depends on."""
    node = nodes[index]
    if node.op not in ("conv2d.default", "linear.default") or _reads_cat(index, nodes):
        return
    columns = compiler.columns_of(index)
    sizes = [len(compiler.encoding.genes[c].choices) for c in columns]
    if math.prod(sizes) > 4096:
        return
    for picked in itertools.product(*(range(n) for n in sizes)):
        kept = compiler.kept(columns, picked)
        side = compiler.side_at(index, columns, picked)
        near: Any = _Nodes(nodes, kept)
        shapes = {node.args[1]: compiler.weight_at(node.args[1], kept, side)}
        if side:
            args = near[index].args
            near[index] = _replaced(near[index], (*args[:4], (side // 2,) * 2, *args[5:]))
        yield picked, node_layer(index, near, shapes)


def _replaced(node: Node, args: tuple[Any, ...]) -> Node:
    return Node(
        name=node.name, op=node.op, args=args, kwargs=node.kwargs, shape=node.shape,
        module=node.module,
    )  # fmt: skip


class _Nodes(dict[int, Node]):
    """Nodes with sizes that are numbers, made as they are looked at."""

    def __init__(self, nodes: Sequence[Node], kept: Any) -> None:
        super().__init__()
        self.nodes, self.kept_units = nodes, kept

    def __missing__(self, index: int) -> Node:
        node = self.nodes[index]
        made = Node(
            name=node.name, op=node.op, args=_at(node.args, self.kept_units), kwargs=node.kwargs,
            shape=_at(node.shape, self.kept_units), module=node.module,
        )  # fmt: skip
        self[index] = made
        return made

    def __len__(self) -> int:
        return len(self.nodes)


def _at(value: Any, kept: Any) -> Any:
    if isinstance(value, Width):
        return value.at(kept)
    if isinstance(value, Batch):
        return Batch(_at(value.times, kept))
    if isinstance(value, tuple):
        return tuple(_at(item, kept) for item in value)
    return value
