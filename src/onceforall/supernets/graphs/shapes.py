"""One spelling for each shape operation."""

from __future__ import annotations

import sys
from typing import Any

from torch import fx

from onceforall.errors import BlueprintError
from onceforall.graph import Node

Shape = tuple[int, ...]
Step = tuple[str, tuple[Any, ...], Shape]


def normalised(name: str, node: fx.Node, shapes: list[Shape], result: Shape, i: int) -> list[Step]:
    """Return the own operators that stand for result ``i`` of a shape operation.

    Args:
        name: Overload of ATen.
        node: The operation, for its literal arguments.
        shapes: Shapes of its operands.
        result: Shape of the result.
        i: Number of the result, where there are several.

    Returns:
        Operator, arguments after the operand, and shape of each step; nothing where the result is
        the operand.
    """
    shape, rest = shapes[0], _literals(node)
    base = name.partition(".")[0]
    if base in ("cat", "concat", "stack"):
        dim = int(rest[0]) if rest else 0
        return [("cat.default", (dim % len(result),), result)]
    if base in ("expand", "expand_as"):
        return [] if shape == result else [("expand", (result,), result)]
    if base in ("transpose", "swapaxes", "swapdims", "t", "mT", "permute", "movedim"):
        return _permuted(base, rest, shape, result)
    if base in ("slice", "narrow"):
        return _sliced(base, rest, shape, result)
    if base == "select":
        dim = rest[0] % len(shape)
        return [("select", (dim, rest[1] % shape[dim]), result)]
    if base == "unbind":
        dim = (rest[0] if rest else 0) % len(shape)
        return [("select", (dim, i), result)]
    if base in ("split", "split_with_sizes", "chunk"):
        return _part(base, rest, shape, result, i)
    return [] if shape == result else [("reshape", (result,), result)]


def _literals(node: fx.Node) -> list[Any]:
    rest = [arg for arg in node.args[1:] if not isinstance(arg, fx.Node)]
    return rest + [value for value in node.kwargs.values() if not isinstance(value, fx.Node)]


def _permuted(base: str, rest: list[Any], shape: Shape, result: Shape) -> list[Step]:
    order = list(range(len(shape)))
    if base == "permute":
        order = [dim % len(shape) for dim in rest[0]]
    elif base == "movedim":
        order.insert(rest[1] % len(shape), order.pop(rest[0] % len(shape)))
    elif len(shape) > 1:
        a, b = (rest[0] % len(shape), rest[1] % len(shape)) if len(rest) == 2 else (-2, -1)
        order[a], order[b] = order[b], order[a]
    return [("permute", (tuple(order),), result)]


def _sliced(base: str, rest: list[Any], shape: Shape, result: Shape) -> list[Step]:
    if base == "narrow":
        dim, start, length = rest
        rest = [dim, start, start + length, 1]
    usual: tuple[Any, ...] = (0, None, None, 1)
    dim, start, end, step = (*rest, *usual[len(rest) :])
    dim %= len(shape)
    size = shape[dim]
    end = size if end is None or end >= sys.maxsize else end
    start = max(0, min(size, (start or 0) + size * ((start or 0) < 0)))
    end = max(start, min(size, end + size * (end < 0)))
    if (start, end, step) == (0, size, 1):
        return []
    return [("slice", (dim, start, end, step), result)]


def _part(base: str, rest: list[Any], shape: Shape, result: Shape, i: int) -> list[Step]:
    dim = (rest[1] if len(rest) > 1 else 0) % len(shape)
    if base == "chunk":
        size = -(-shape[dim] // int(rest[0]))
        start = i * size
    elif isinstance(rest[0], int):
        start = i * rest[0]
    else:
        start = sum(rest[0][:i])
    end = start + result[dim]
    if end > shape[dim]:
        raise BlueprintError(f"part {i} of {base} of {shape} is beyond its end")
    if (start, end) == (0, shape[dim]):
        return []
    return [("slice", (dim, start, end, 1), result)]


def padded_dims(node: Node, ndim: int) -> dict[int, tuple[int, int]]:
    """Return how much is padded before and after, by dimension, where anything is."""
    pads = node.args[1]
    places = {ndim - 1 - i: (pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)}
    return {dim: ends for dim, ends in places.items() if ends != (0, 0)}
