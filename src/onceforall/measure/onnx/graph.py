"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class OnnxGraph:
    """Nodes and weights of a graph under construction; values are named ``v0, v1, ...``."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.random = np.random.default_rng(0)

    def node(
        self, op: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None
    ) -> str:
        """Append a node and return the name of its output."""
        output = f"v{len(self.nodes)}"
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(op, inputs, [output], name=name, **(attributes or {}))
        )
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """Add a weight and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def index(self, value: int) -> str:
        """Add an integer without dimensions, such as a place in a tensor, and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def rename(self, value: str, name: str) -> str:
        """Give the output of the last node a new name; an empty graph gets a node."""
        if not self.nodes or self.nodes[-1].output[0] != value:
            self.node("Identity", [value])
        self.nodes[-1].output[0] = name
        return name
