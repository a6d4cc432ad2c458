"""Other spellings of a residual: a shortcut with fewer channels than what it is added to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from onceforall.graph import Node, Ref
from onceforall.supernets.graphs.shapes import padded_dims


def with_padded_shortcuts(nodes: Sequence[Node], output: int) -> tuple[list[Node], int]:
    """Return a program with ``cat(x[:, :n] + s, x[:, n:])`` written as ``x + pad(s)``.

    The values are the same, and the sum is one that can be skipped: what is left of it is the
    shortcut, and zeros in the channels that the block adds. Channels are padded before the block.

    Args:
        nodes: Traced network.
        output: Node that gives the logits.

    Returns:
        The nodes and the number of the output among them.
    """
    users = [0] * len(nodes)
    for node in nodes:
        for before in node.inputs:
            users[before] += 1
    made = list(nodes)
    dead: set[int] = set()
    for index, node in enumerate(nodes):
        found = _partial_sum(nodes, node, users)
        if found is None:
            continue
        total, x, shortcut, slices = found
        more = int(node.shape[1]) - int(nodes[shortcut].shape[1])
        around = (0,) * (2 * (len(node.shape) - 2)) + (0, more)
        made[total] = replace(
            nodes[total],
            op="pad.default",
            args=(Ref(shortcut), around, "constant", 0.0),
            shape=node.shape,
        )
        made[index] = replace(node, op="add.Tensor", args=(Ref(x), Ref(total)))
        dead |= slices
    order = [index for index in _with_pads_first(made) if index not in dead]
    numbers = {index: number for number, index in enumerate(order)}
    return [_renumbered(made[index], numbers) for index in order], numbers[output]


def _with_pads_first(nodes: Sequence[Node]) -> Iterator[int]:
    """Yield the nodes in order, but each padding of channels right after what it pads.

    So the memory that it takes does not depend on whether the block beside it runs.
    """
    pads: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        if node.op == "pad.default" and set(padded_dims(node, len(node.shape))) == {1}:
            pads.setdefault(node.inputs[0], []).append(index)
    moved = {index for behind in pads.values() for index in behind}
    for index in range(len(nodes)):
        left = [] if index in moved else [index]
        while left:
            yield left[0]
            left = [*pads.get(left[0], ()), *left[1:]]


def _partial_sum(
    nodes: Sequence[Node], node: Node, users: Sequence[int]
) -> tuple[int, int, int, set[int]] | None:
    """Return the inner sum of a concatenation, its two operands, and the slices that it is of."""
    if node.op != "cat.default" or node.args[1] != 1 or len(node.args[0]) != 2:
        return None
    total, rest = (part.index if isinstance(part, Ref) else 0 for part in node.args[0])
    if nodes[total].op != "add.Tensor" or nodes[total].kwargs or len(nodes[total].inputs) != 2:
        return None
    for start, shortcut in (nodes[total].inputs, nodes[total].inputs[::-1]):
        if nodes[start].op != "slice" or nodes[rest].op != "slice":
            continue
        x, count = nodes[start].inputs[0], nodes[start].shape[1]
        halves = (Ref(x), 1, 0, count, 1), (Ref(x), 1, count, nodes[x].shape[1], 1)
        if (nodes[start].args, nodes[rest].args) != halves:
            continue
        same = nodes[shortcut].shape == nodes[start].shape
        if same and users[total] == users[start] == users[rest] == 1:
            return total, x, shortcut, {start, rest}
    return None


def _renumbered(node: Node, numbers: dict[int, int]) -> Node:
    def value(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(value(item) for item in part)
        return Ref(numbers[part.index]) if isinstance(part, Ref) else part

    kwargs = tuple((key, value(part)) for key, part in node.kwargs)
    return replace(node, args=value(node.args), kwargs=kwargs)
