"""Graph: a static network of any shape as data, node by node.

A blueprint lists the layers of our own families; a graph does the same for a network that was
traced. Each node names an ATen operator (or one of the few operators below), its arguments, and
the shape of its result for one image. The plain module, the exact costs, the ONNX file and the
drawing all come from it.

Own operators, which stand for many of ATen's: ``reshape(x, shape)``, ``expand(x, shape)``,
``permute(x, dims)``, ``slice(x, dim, start, end, step)``, ``select(x, dim, index)``,
``batch_norm(x)`` (its tensors lie under the node's ``module``), ``dropout(x, p)`` and
``attention(q, k, v, mask, scale)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onceforall.errors import BlueprintError, ConfigError
from onceforall.records import record_from_json, record_to_json


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of node ``index``; node 0 is the image batch."""

    index: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the network, by its key in the state dict."""

    name: str


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of computed constant ``index``: made of weights alone."""

    index: int


@dataclass(frozen=True, slots=True)
class Width:
    """A size that depends on the arch: ``fixed`` plus, for each group, ``times`` its kept units.

    Attributes:
        fixed: What is always there.
        terms: Pairs of a channel group's number and the values for each of its units.
    """

    fixed: int
    terms: tuple[tuple[int, int], ...]

    def at(self, kept: Sequence[int]) -> int:
        """Return the size when group ``g`` keeps ``kept[g]`` units."""
        return self.fixed + sum(times * kept[group] for group, times in self.terms)


@dataclass(frozen=True, slots=True)
class Batch:
    """``times`` the number of images, known when the network runs."""

    times: Any


@dataclass(frozen=True, slots=True)
class DType:
    """A number format, e.g. ``float32``."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation.

    Attributes:
        name: What to call it in messages: unique in its graph.
        op: ``overload`` of ATen without the namespace (``relu.default``), or an own operator.
        args: Arguments: numbers, texts, None, tuples of them, and the references above.
        kwargs: Named arguments, as pairs.
        shape: Shape of the result: integers, `Batch` where the number of images counts, and `Width`
            where the arch does.
        module: Dotted path of the module that it was traced in; of ``batch_norm`` the norm.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[Any, ...] = ()
    module: str = ""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Return the indices of the nodes that it reads."""
        return tuple(part.index for part in self.parts() if isinstance(part, Ref))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the shape for one image."""
        return tuple(size.times if isinstance(size, Batch) else size for size in self.shape)

    def parts(self) -> Iterator[Any]:
        """Yield every argument, those inside of tuples too."""
        yield from _parts((self.args, tuple(value for _, value in self.kwargs)))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield value


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightInfo:
    """A tensor of a network.

    Attributes:
        name: Key in the state dict.
        shape: Its shape.
        kind: ``parameter`` or ``buffer``; those of norms are listed there.
        dtype: Number format.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["parameter", "buffer"]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormInfo:
    """A batch norm of a network.

    Attributes:
        name: Dotted path, the prefix of its tensors.
        channels: Its channels.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        affine: Whether it scales and shifts.
    """

    name: str
    channels: int
    eps: float
    momentum: float
    affine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphBlock:
    """A block of a network for drawings and tables.

    Attributes:
        name: Dotted path of its module.
        stage: Number of its stage.
        first: First node.
        last: Last node, inclusive.
        kernel_size: Largest depthwise kernel of the block; 0 without one.
        expand_ratio: Share of its inner widths that is kept.
    """

    name: str
    stage: int
    first: int
    last: int
    kernel_size: int
    expand_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A static network.

    Attributes:
        nodes: Operations in order of execution; the first is the image batch.
        weights: Its tensors, without those of norms.
        norms: Its batch norms.
        output: Index of the node that gives the logits.
        num_classes: Logits.
        resolution: Side of the square image that the shapes are for, in pixels.
        any_resolution: Whether no argument depends on the image's side.
        blocks: Blocks that run, in order.
        skipped: Names of the blocks that depth leaves out.
    """

    nodes: tuple[Node, ...]
    weights: tuple[WeightInfo, ...]
    norms: tuple[NormInfo, ...]
    output: int
    num_classes: int
    resolution: int
    any_resolution: bool
    blocks: tuple[GraphBlock, ...] = ()
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            if any(not 0 <= before < index for before in node.inputs):
                raise BlueprintError(f"node {index} {node.name} reads a node that is not before it")
        if not 0 <= self.output < len(self.nodes):
            raise BlueprintError(f"output {self.output} is no node")

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return next(weight.shape for weight in self.weights if weight.name == name)


GRAPH_TYPES = (
    Ref, Weight, Computed, Width, Batch, DType, Node, WeightInfo, NormInfo, GraphBlock, Graph,
)  # fmt: skip


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """Return a graph as a JSON object."""
    return record_to_json(graph)  # type: ignore[no-any-return]


def graph_from_json(value: dict[str, Any]) -> Graph:
    """Return the graph that :func:`graph_to_json` wrote.

    Raises:
        ConfigError: If it is not one.
    """
    graph = record_from_json(value, GRAPH_TYPES)
    if not isinstance(graph, Graph):
        raise ConfigError(f"record {type(graph).__name__} is not a graph")
    return graph
