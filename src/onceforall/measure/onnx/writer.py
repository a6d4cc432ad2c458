"""An ONNX graph that takes the nodes of a traced network: operands and their ONNX names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from onceforall.errors import BlueprintError
from onceforall.graph import Graph, Ref, Weight
from onceforall.measure.onnx.graph import OnnxGraph
from onceforall.supernets.graphs.network import GraphNet

Shape = tuple[Any, ...]


class GraphWriter:
    """Names what nodes read; writers of single operators append to it.

    Attributes:
        plan: Network that is written.
        names: ONNX name of each node's result.
        folds: Convolutions whose batch norm is folded in, and that norm's node.
        module: The plain module with the weights.
    """

    def __init__(self, onnx: OnnxGraph, plan: Graph, weights: GraphNet, images: str) -> None:
        self.onnx, self.plan, self.images = onnx, plan, images
        self.module = weights
        self.tensors = {**dict(weights.named_parameters()), **dict(weights.named_buffers())}
        self.names: dict[int, str] = {0: images}
        self._batch = ""
        readers: dict[int, list[int]] = {}
        for index, node in enumerate(plan.nodes):
            for before in node.inputs:
                readers.setdefault(before, []).append(index)
        self.folds = {
            node.inputs[0]: index
            for index, node in enumerate(plan.nodes)
            if node.op == "batch_norm"
            and plan.nodes[node.inputs[0]].op == "conv2d.default"
            and readers[node.inputs[0]] == [index]
        }

    def value(self, part: Any) -> str:
        """Return the ONNX name of an operand."""
        if isinstance(part, Ref):
            return self.names[part.index]
        if isinstance(part, Weight):
            return self.onnx.constant(self.tensor(part).detach().cpu().numpy())
        if isinstance(part, int | float):
            return self.onnx.constant(np.array(part, np.float32))
        raise BlueprintError(f"operand {part!r} has no form in ONNX")

    def tensor(self, part: Any) -> Tensor:
        """Return a weight."""
        return self.tensors[part.name]

    def shape(self, part: Any) -> Shape:
        """Return the shape of an operand."""
        if isinstance(part, Ref):
            return self.plan.nodes[part.index].shape
        return tuple(self.tensor(part).shape)

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of a list of integers."""
        return self.onnx.constant(np.array(values, np.int64))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append an ONNX node."""
        return self.onnx.node(op, inputs, attributes)

    def batch_size(self, times: int) -> str:
        """Return the name of a multiple of the number of images, ``(1,)``."""
        if not self._batch:
            shape = self.node("Shape", [self.images])
            self._batch = self.node("Slice", [shape, self.ints([0]), self.ints([1])])
        return self._batch if times == 1 else self.node("Mul", [self._batch, self.ints([times])])


def pair(value: Any) -> tuple[int, int]:
    """Return two numbers where one stands for both."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def array(tensor: Tensor) -> Any:
    """Return the float32 numbers of a tensor."""
    return tensor.detach().float().cpu().numpy()
