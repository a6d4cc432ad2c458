"""Exact costs of graphs: MACs, parameters and peak activation memory.

- *MACs*: multiply-accumulates of convolutions, fully connected layers and products of matrices
  (attention), for one image. What is made of weights alone costs nothing.
- *Params*: weights and biases, and two for each batch-norm channel that scales and shifts.
- *Peak activation memory*: one image, four bytes a number, operations in the graph's order. Views,
  norms, activations and elementwise operations write onto an operand; everything else has a result
  of its own, alive until it is read for the last time. The peak is the largest number of bytes
  alive at once.

A graph with symbolic sizes has symbolic costs: a :class:`Sum` of products of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, Graph, Node, Ref, Weight, Width
from onceforall.supernets.graphs.operators import CONVOLUTIONS, ELEMENTWISE, UNARY

_BYTES = 4
_VIEWS = frozenset(("reshape", "expand", "permute", "slice", "select"))
_ONTO = UNARY | ELEMENTWISE | {"batch_norm", "layer_norm.default", "softmax.int"}


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of products: of how many units some groups keep, times a number.

    Attributes:
        terms: Number of each product, by the groups in it, ascending.
    """

    terms: Mapping[tuple[int, ...], Any]

    def __add__(self, other: Sum) -> Sum:
        """Return the sum."""
        terms = dict(self.terms)
        for groups, number in other.terms.items():
            terms[groups] = terms.get(groups, 0) + number
        return Sum(terms)

    def at(self, kept: Sequence[int]) -> Any:
        """Return the number when group ``g`` keeps ``kept[g]`` units."""
        return sum(
            number * math.prod(kept[group] for group in groups)
            for groups, number in self.terms.items()
        )


def product(sizes: Iterable[Any]) -> Sum:
    """Return the product of sizes: integers, `Width` and `Batch` (which counts one image)."""
    result: dict[tuple[int, ...], int] = {(): 1}
    for size in sizes:
        factor = _terms(size)
        grown: dict[tuple[int, ...], int] = {}
        for groups, number in result.items():
            for group, times in factor.items():
                key = tuple(sorted((*groups, *group)))
                grown[key] = grown.get(key, 0) + number * times
        result = grown
    return Sum({groups: number for groups, number in result.items() if number})


def _terms(size: Any) -> dict[tuple[int, ...], int]:
    if isinstance(size, Batch):
        return _terms(size.times)
    if isinstance(size, Width):
        terms: dict[tuple[int, ...], int] = {(): size.fixed} if size.fixed else {}
        for group, times in size.terms:
            terms[(group,)] = terms.get((group,), 0) + times
        return terms
    return {(): int(size)}


def node_macs(node: Node, nodes: Sequence[Node], weight_shape: Mapping[Any, Sequence[Any]]) -> Sum:
    """Return the multiply-accumulates of one node.

    Args:
        node: The node.
        nodes: All nodes of its graph.
        weight_shape: Shape of each weight that is read, by reference.
    """

    def shape(part: Any) -> Sequence[Any]:
        return nodes[part.index].shape if isinstance(part, Ref) else weight_shape[part]

    if node.op in CONVOLUTIONS:
        return product((*shape(node.args[1]), *node.shape[2:], node.shape[0]))
    if node.op == "linear.default":
        return product((*shape(node.args[1]), *node.shape[:-1]))
    if node.op in ("matmul.default", "bmm.default"):
        return product((*node.shape, shape(node.args[0])[-1]))
    if node.op == "scaled_dot_product_attention.default":
        query, key, value = (shape(part) for part in node.args[:3])
        return product((*query, key[-2])) + product((*query[:-1], key[-2], value[-1]))
    if node.op == "einsum.default":
        sizes: dict[str, Any] = {}
        for letters, part in zip(node.args[0].split("->")[0].split(","), node.args[1], strict=True):
            sizes |= dict(zip(letters.strip().replace(" ", ""), shape(part), strict=True))
        return product(sizes.values())
    return Sum({})


def graph_macs(graph: Graph) -> int:
    """Return the multiply-accumulates of one image."""
    shapes = weight_shapes(graph)
    return sum(int(node_macs(node, graph.nodes, shapes).at(())) for node in graph.nodes)


def weight_shapes(graph: Graph) -> dict[Any, tuple[int, ...]]:
    """Return the shape of each weight of a graph, by reference."""
    return {Weight(weight.name): weight.shape for weight in graph.weights}


def graph_params(graph: Graph) -> int:
    """Return the number of parameters."""
    weights = sum(math.prod(w.shape) for w in graph.weights if w.kind == "parameter")
    return weights + sum(2 * norm.channels for norm in graph.norms if norm.affine)


def graph_peak_bytes(graph: Graph) -> int:
    """Return the largest number of activation bytes alive at once (fp32, one image)."""
    live = live_sizes(graph.nodes, graph.output)
    return _BYTES * max(int(total.at(())) for _, total in live)


def live_sizes(nodes: Sequence[Node], output: int) -> Iterator[tuple[int, Sum]]:
    """Yield each node that has a result of its own, with the numbers alive while it runs."""
    owner = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        if node.op in _VIEWS or node.op in _ONTO:
            same = [i for i in node.inputs if node.op in _VIEWS or nodes[i].shape == node.shape]
            if same:
                owner[index] = owner[same[0]]
    last = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        for before in node.inputs:
            last[owner[before]] = max(last[owner[before]], index)
        last[owner[index]] = max(last[owner[index]], index)
    last[owner[output]] = len(nodes)
    ends: dict[int, list[int]] = {}
    alive: dict[tuple[int, ...], int] = {}

    def count(size: Sum, sign: int) -> None:
        for groups, number in size.terms.items():
            alive[groups] = alive.get(groups, 0) + sign * number

    for index, node in enumerate(nodes):
        if owner[index] == index:
            count(product(node.shape), 1)
            ends.setdefault(last[index], []).append(index)
            yield index, Sum({groups: number for groups, number in alive.items() if number})
        for over in ends.pop(index, ()):
            count(product(nodes[over].shape), -1)


def graph_at(graph: Graph, resolution: int) -> Graph:
    """Return the graph; refuse another image side than that of its shapes.

    Raises:
        BlueprintError: If ``resolution`` is another one.
    """
    if resolution != graph.resolution:
        raise BlueprintError(
            f"resolution {resolution}: the shapes of this graph are for {graph.resolution} pixels"
        )
    return graph
