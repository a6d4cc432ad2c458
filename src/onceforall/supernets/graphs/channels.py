"""Which channels of a traced network go together.

The rules of `rules.py` are applied node by node, and then ids are united until every tensor can be
cut along one dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onceforall.graph import Computed, Node, Weight
from onceforall.supernets.graphs.operands import Channels, Constant, Operands
from onceforall.supernets.graphs.rules import RULES, unknown
from onceforall.supernets.graphs.trace import Program
from onceforall.supernets.graphs.units import Ids, Shape, rigid, varying


def analysed(program: Program, shapes: Mapping[Constant, Shape]) -> Channels:
    """Return the ids of a program, united until every tensor can be cut along one dimension.

    Args:
        program: Traced network.
        shapes: Shape of every constant that operations on images read.
    """
    rules = Operands(nodes=program.nodes, shapes=shapes)
    for index, node in enumerate(program.nodes):
        rules.index = index
        rules.found.ids.append(_result(rules, node))
    rules.found.units.fix(rules.found.ids[program.output])
    for (constant, dim), ids in list(rules.found.along.items()):
        if constant in rules.found.whole:  # a weight that is also a number: leave it alone
            rules.found.units.fix(ids)
            rules.found.units.fix(rules.found.whole.pop(constant))
            rules.found.along[constant, dim] = np.zeros_like(ids)
    _make_boxes(rules.found)
    return rules.found


def _result(operands: Operands, node: Node) -> Ids:
    """Return the ids of a node's result."""
    if node.op == "input":
        return rigid(len(node.shape))
    return RULES.get(node.op, unknown)(operands, node)


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
