"""Running nodes: a plain list of calls, prepared once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, Computed, DType, Node, Ref, Weight, Width
from onceforall.ops.depthwise import depthwise_conv2d
from onceforall.supernets.graphs.operators import function_of, number_format

# Reads its arguments from the results so far and the tensors given, and adds a result.
Step = Callable[[list[Any], Mapping[Any, Tensor]], None]
# Normalises the input of a batch norm, by the norm's path.
Normalise = Callable[[str, Tensor], Tensor]


def steps_of(
    nodes: Sequence[tuple[int, Node]], output: int, *, normalise: Normalise, module: nn.Module
) -> list[Step]:
    """Return the calls that run a network.

    Args:
        nodes: Pairs of a number and a node, in order; the first is the image batch.
        output: Number of the node that gives the logits, which is kept to the end.
        normalise: Runs batch norms.
        module: Whose training flag says whether values are dropped.

    Raises:
        BlueprintError: If an operator is unknown.
    """
    last: dict[int, int] = {}
    for position, (_, node) in enumerate(nodes):
        for before in node.inputs:
            last[before] = position
    steps = []
    for position, (number, node) in enumerate(nodes[1:], start=1):
        free = [each for each, at in last.items() if at == position and each != output]
        steps.append(_step(number, node, free, normalise, module))
    return steps


def run_steps(
    steps: Sequence[Step], count: int, output: int, images: Tensor, tensors: Mapping[Any, Tensor]
) -> Tensor:
    """Return the result of node ``output``.

    Args:
        steps: What :func:`steps_of` gave.
        count: More than the largest node number.
        output: Number of the node that gives the logits.
        images: The image batch.
        tensors: Tensors by the references that nodes have.
    """
    results: list[Any] = [None] * (count + 1)
    results[0], results[-1] = images, images.shape[0]
    for step in steps:
        step(results, tensors)
    result: Tensor = results[output]
    return result


def _step(
    number: int, node: Node, free: Sequence[int], normalise: Normalise, module: nn.Module
) -> Step:
    function = _function(node, normalise, module)
    places = [_reader(arg) for arg in node.args]
    named = [(key, _reader(value)) for key, value in node.kwargs]
    if len(places) == 1 and isinstance(node.args[0], Ref) and not named:
        only = node.args[0].index

        def step_of_one(results: list[Any], tensors: Mapping[Any, Tensor]) -> None:
            results[number] = function(results[only])
            for index in free:
                results[index] = None

        return step_of_one

    def step(results: list[Any], tensors: Mapping[Any, Tensor]) -> None:
        args = [place(results, tensors) for place in places]
        kwargs = {key: read(results, tensors) for key, read in named}
        results[number] = function(*args, **kwargs)
        for index in free:
            results[index] = None

    return step


def _reader(value: Any) -> Callable[[list[Any], Mapping[Any, Tensor]], Any]:
    """Return what gives the value of an argument while the network runs."""
    if isinstance(value, Ref):
        index = value.index
        return lambda results, tensors: results[index]
    if isinstance(value, Weight | Computed):
        return lambda results, tensors: tensors[value]
    if isinstance(value, Batch):
        times = value.times
        return lambda results, tensors: times * results[-1]
    if isinstance(value, DType):
        return lambda results, tensors: number_format(value, tensors.values())
    if isinstance(value, Width):
        raise BlueprintError(f"size {value} depends on an arch")
    if isinstance(value, tuple):
        if not any(isinstance(part, Ref | Weight | Computed | Batch | DType) for part in value):
            plain = list(value)
            return lambda results, tensors: plain
        parts = [_reader(part) for part in value]
        return lambda results, tensors: [part(results, tensors) for part in parts]
    return lambda results, tensors: value


def _function(node: Node, normalise: Normalise, module: nn.Module) -> Callable[..., Any]:
    """Return what a node calls."""
    if node.op == "batch_norm":
        name = node.module
        return lambda x: normalise(name, x)
    if node.op in ("dropout.default", "feature_dropout.default"):
        rate = float(node.args[1])
        drop = torch.dropout if node.op == "dropout.default" else torch.feature_dropout
        return lambda x, *_: drop(x, rate, module.training)
    return OWN.get(node.op) or function_of(node.op)


def _slice(x: Tensor, dim: int, start: int, end: int, step: int) -> Tensor:
    if step == 1:
        return x.narrow(dim, start, end - start)
    return x[(slice(None),) * dim + (slice(start, end, step),)]


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    side = weight.shape[-1]
    if (
        1 < groups == weight.shape[0] == x.shape[1]
        and side % 2
        and weight.shape[-2] == side
        and tuple(padding) == (side // 2,) * 2
        and tuple(dilation) == (1, 1)
        and len(set(stride)) == 1
    ):
        return depthwise_conv2d(x, weight, bias, stride=stride[0])
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


OWN: dict[str, Callable[..., Any]] = {
    "conv2d.default": _conv2d,
    "reshape": lambda x, shape: x.reshape(tuple(shape)),
    "expand": lambda x, shape: x.expand(tuple(shape)),
    "permute": lambda x, dims: x.permute(tuple(dims)),
    "slice": _slice,
    "select": lambda x, dim, index: x.select(dim, index),
}
