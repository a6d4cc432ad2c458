"""The drawing of an architecture: one row for each stage, one bar for each block.

The bar's colour and label are the kernel size, its width is the expand ratio; dashed places are
blocks that other subnets of the run keep and this one does not. ``templates/model.html`` draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from onceforall.arch import Arch
from onceforall.blueprint import (
    Block,
    Blueprint,
    Bottleneck,
    Conv,
    FusedMBConv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    Residual,
    output_size,
)
from onceforall.graph import Graph
from onceforall.measure.costs import layer_macs, output_channels, sized_layers
from onceforall.measure.graph_costs import node_macs, weight_shapes
from onceforall.report import numbers
from onceforall.report.records import Model
from onceforall.report.run_folder import Run

_KERNEL_COLOURS = (1, 3, 5, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all drawings of a run share, so that they compare.

    Attributes:
        depths: Most blocks of each stage in any subnet of the run.
        max_ratio: Largest expand ratio of any subnet of the run.
    """

    depths: tuple[int, ...]
    max_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A block.

    Attributes:
        kernel_size: Side of its kernel; 0 of a traced block whose kernels are rigid.
        expand_ratio: Channels inside over channels in.
        width: Width of the bar, a share of the room it has.
    """

    kernel_size: int
    expand_ratio: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the drawing: the stem, a stage or the head.

    Attributes:
        name: What it is.
        bars: Its blocks; empty for the stem and the head.
        num_off: Blocks that other subnets of the run have here and this one does not.
        words: Its layers in words, where it has no blocks.
        title: More about the blocks, for those who point at them.
        side: Side of its output, in pixels; None for the head.
        channels: Channels of its output; None for the head.
        macs: Its multiply-accumulates.
    """

    name: str
    bars: Sequence[Bar]
    num_off: int
    words: str
    title: str
    side: int | None
    channels: int | None
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The drawing of a network.

    Attributes:
        side: Side of its images, in pixels.
        rows: From the stem to the head.
        slots: Places for blocks in a row.
        max_ratio: Expand ratio of a bar as wide as its place.
    """

    side: int
    rows: Sequence[Row]
    slots: int
    max_ratio: float

    def share_words(self, row: Row) -> str:
        """Return the share of a row in the multiply-accumulates, in percent."""
        total = sum(row.macs for row in self.rows)
        share = row.macs / total if total else 0.0
        return f"<1{numbers.SPACE}%" if 0 < share < 0.01 else numbers.percent(share, 0)

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks."""
        return sum(len(row.bars) for row in self.rows)

    @property
    def kernels(self) -> list[int]:
        """Return the kernel sizes that occur, ascending."""
        return sorted({bar.kernel_size for row in self.rows for bar in row.bars})


def shared_frame(run: Run) -> Frame:
    """Return the frame that holds every subnet of the run."""
    depths: list[int] = []
    ratios: list[float] = []
    for subnet in (*(m.subnet for m in run.models), *run.front, *run.samples):
        arch = subnet.arch
        depths += [0] * (len(arch.depth) - len(depths))
        for stage, depth in enumerate(arch.depth):
            depths[stage] = max(depths[stage], depth)
            ratios += arch.expand_ratio[stage][:depth]
    for model in run.models:
        plan = model.card.blueprint
        if isinstance(plan, Blueprint) and _is_static(plan, model.card.arch):
            depths = list(plan.stage_sizes)
            ratios += [_ratio(layer) for layer in plan.layers if isinstance(layer, Block)]
    return Frame(depths=tuple(depths), max_ratio=max(ratios, default=1.0))


def _is_static(plan: Blueprint, arch: Arch) -> bool:
    """Return whether an arch says nothing of the blocks: of a network that was trained alone."""
    return len(plan.stage_sizes) - len(arch.depth) not in (0, 1)


def draw(model: Model, frame: Frame) -> Drawing:
    """Return the drawing of a model."""
    plan = model.card.blueprint
    rows = list(_graph_rows(plan, frame) if isinstance(plan, Graph) else _rows(plan, model, frame))
    return Drawing(
        side=model.card.resolution,
        rows=rows,
        slots=max([1, *frame.depths, *(len(row.bars) for row in rows)]),
        max_ratio=frame.max_ratio,
    )


def kernel_style(kernel_size: int) -> str:
    """Return the class that colours a kernel size."""
    return f"k{kernel_size if kernel_size in _KERNEL_COLOURS else 7}"


def _rows(plan: Blueprint, model: Model, frame: Frame) -> Iterator[Row]:
    """Yield stem, stages and head with their sizes and costs."""
    arch = model.card.arch
    sized = list(sized_layers(plan, model.card.resolution))
    # Blocks before the first elastic stage are stages of their own.
    num_fixed = 0 if _is_static(plan, arch) else len(plan.stage_sizes) - len(arch.depth)
    numbers_of = range(-num_fixed, len(plan.stage_sizes) - num_fixed)
    names = [f"Stage {i + 1}" if i >= 0 else "First" for i in numbers_of]
    sizes = [len(plan.stem), *plan.stage_sizes, len(plan.head)]
    start = 0
    for position, (name, size) in enumerate(zip(["Stem", *names, "Head"], sizes, strict=True)):
        layers = sized[start : start + size]
        start += size
        if not layers:
            continue
        bars = [_bar(layer, frame) for layer, _, _ in layers if isinstance(layer, Block)]
        last, side, channels = layers[-1]
        is_head = name == "Head"
        yield Row(
            name=name,
            bars=bars,
            num_off=max(0, _most(name, position - 1 - num_fixed, frame) - len(bars)),
            words="" if bars else ", ".join(_layer_words(layer) for layer, _, _ in layers),
            title=_title([layer for layer, _, _ in layers if isinstance(layer, Block)]),
            side=None if is_head else output_size(last, side),
            channels=None if is_head else output_channels(last, channels),
            macs=sum(layer_macs(layer, layer_side) for layer, layer_side, _ in layers),
        )


def _graph_rows(graph: Graph, frame: Frame) -> Iterator[Row]:
    """Yield what comes before the blocks of a traced network, its stages, what comes after them."""
    shapes = weight_shapes(graph)
    macs = [node_macs(node, graph.nodes, shapes).at(()) for node in graph.nodes]
    start = 1
    for position, stage in enumerate(dict.fromkeys(block.stage for block in graph.blocks)):
        blocks = [block for block in graph.blocks if block.stage == stage]
        first, last = min(b.first for b in blocks), max(b.last for b in blocks)
        if first > start and (position == 0 or any(macs[start:first])):
            yield _rest("Between" if position else "Stem", graph, macs, start, first)
        name, shape = f"Stage {stage + 1}", graph.nodes[last].sizes
        is_map = len(shape) == 4
        yield Row(
            name=name,
            bars=[
                Bar(
                    kernel_size=block.kernel_size,
                    expand_ratio=block.expand_ratio,
                    width=min(1.0, block.expand_ratio / frame.max_ratio),
                )
                for block in blocks
            ],
            num_off=max(0, _most(name, stage, frame) - len(blocks)),
            words="",
            title="; ".join(block.name for block in blocks),
            side=shape[2] if is_map else None,
            channels=shape[1] if is_map else shape[-1],
            macs=sum(macs[max(start, first) : last + 1]),
        )
        start = max(start, last + 1)
    if start < len(graph.nodes):
        yield _rest("Head" if graph.blocks else "Network", graph, macs, start, len(graph.nodes))


def _rest(name: str, graph: Graph, macs: Sequence[int], start: int, end: int) -> Row:
    """Return the row of nodes that are in no block: what they are made of, in words."""
    counts = Counter(graph.nodes[i].op.partition(".")[0] for i in range(start, end) if macs[i])
    words = ", ".join(f"{n} {op}" if n > 1 else op for op, n in counts.items())
    shape = graph.nodes[end - 1].sizes
    is_map = len(shape) == 4 and name != "Head"
    return Row(
        name=name,
        bars=(),
        num_off=0,
        words=words or "no weights",
        title="",
        side=shape[2] if is_map else None,
        channels=shape[1] if is_map else None,
        macs=sum(macs[start:end]),
    )


def _most(name: str, stage: int, frame: Frame) -> int:
    """Return the most blocks of an elastic stage of the run; 0 of any other row."""
    is_elastic = name.startswith("Stage") and stage < len(frame.depths)
    return frame.depths[stage] if is_elastic else 0


def _ratio(block: Block) -> float:
    return 1.0 if isinstance(block, MBConv) and not block.has_expansion else block.expand_ratio


def _bar(block: Block, frame: Frame) -> Bar:
    ratio = _ratio(block)
    return Bar(
        kernel_size=block.kernel_size,
        expand_ratio=ratio,
        width=min(1.0, ratio / frame.max_ratio),
    )


def _title(blocks: Sequence[Block]) -> str:
    """Return what the bars of a stage do not show."""
    if not blocks:
        return ""
    parts = [f"channels inside: {', '.join(str(block.mid_channels) for block in blocks)}"]
    if blocks[0].stride > 1:
        parts.append(f"stride {blocks[0].stride}")
    if any(isinstance(block, MBConv) and block.se_channels for block in blocks):
        parts.append("squeeze-excite")
    return "; ".join(parts)


def _layer_words(layer: Layer) -> str:
    match layer:
        case Conv():
            stride = f", stride {layer.stride}" if layer.stride > 1 else ""
            size = f"{layer.kernel_size}\u00d7{layer.kernel_size}"
            return f"conv {size}{stride} to {layer.out_channels}"
        case MaxPool():
            return "max pool"
        case GlobalPool():
            return "mean"
        case Linear():
            return f"linear to {layer.out_features}"
        case Identity():
            return "identity"
        case MBConv() | FusedMBConv() | Bottleneck() | Residual():
            return "block"  # drawn as a box of its stage
        case _ as never:
            assert_never(never)
