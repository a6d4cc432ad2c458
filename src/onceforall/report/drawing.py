"""The drawing of an architecture: one row for each stage, one bar for each block.

The bar's colour and label are the kernel size, its width is the expand ratio; dashed places are
blocks that other subnets of the run keep and this one does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onceforall.arch import Arch
from onceforall.blueprint import (
    Block,
    Blueprint,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    output_size,
)
from onceforall.graph import Graph
from onceforall.measure.costs import layer_macs, output_channels, sized_layers
from onceforall.measure.graph_costs import node_macs, weight_shapes
from onceforall.report import numbers
from onceforall.report.markup import Markup, element, join
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
class _Block:
    kernel_size: int
    expand_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """A row of the drawing.

    Attributes:
        name: What it is.
        blocks: Its blocks; empty for the stem and the head.
        content: Words in place of blocks.
        title: More about the blocks, for those who point at them.
        side: Side of its output, in pixels.
        channels: Channels of its output.
        macs: Its multiply-accumulates, or None.
        elastic: Which stage of the search space it is, or None.
    """

    name: str
    blocks: tuple[_Block, ...] = ()
    content: str = ""
    title: str | None = None
    side: int | None = None
    channels: int | None = None
    macs: int | None = None
    elastic: int | None = None


def shared_frame(run: Run) -> Frame:
    """Return the frame that holds every subnet of the run."""
    depths: list[int] = []
    ratios: list[float] = []
    for arch in _archs(run):
        depths += [0] * (len(arch.depth) - len(depths))
        for stage, depth in enumerate(arch.depth):
            depths[stage] = max(depths[stage], depth)
            ratios += arch.expand_ratio[stage][:depth]
    return Frame(depths=tuple(depths), max_ratio=max(ratios, default=1.0))


def draw(model: Model, frame: Frame) -> Markup | None:
    """Return the drawing of a model, or None where its card does not say what it is."""
    arch = model.subnet.arch
    if model.blueprint is not None and model.resolution is not None:
        if isinstance(model.blueprint, Graph):
            stages = list(_stages_of_graph(model.blueprint, arch))
        else:
            stages = list(_stages_of_blueprint(model.blueprint, model.resolution, arch))
    elif arch is not None:
        stages = list(_stages_of_arch(arch))
    else:
        return None
    total = sum(stage.macs or 0 for stage in stages)
    slots = max([1, *frame.depths, *(len(stage.blocks) for stage in stages)])
    rows = [_row(stage, frame, total_macs=total) for stage in stages]
    side = model.resolution or (arch.resolution if arch is not None else None)
    blocks = numbers.plural(sum(len(stage.blocks) for stage in stages), "block")
    return element(
        "figure",
        {"class": "net", "style": f"--slots:{slots}"},
        element("figcaption", {"class": "hidden"}, f"Architecture: {blocks} in stages"),
        _input_row(side),
        *rows,
        _key(stages, frame),
    )


def _archs(run: Run) -> tuple[Arch, ...]:
    subnets = (*(m.subnet for m in run.models), *run.front, *run.samples)
    return tuple(subnet.arch for subnet in subnets if subnet.arch is not None)


# -- stages ---------------------------------------------------------------------------------------


def _stages_of_arch(arch: Arch) -> Iterator[_Stage]:
    """Yield the stages of an arch alone: kernels and ratios, but no channels."""
    for stage, depth in enumerate(arch.depth):
        pairs = zip(arch.kernel_size[stage], arch.expand_ratio[stage], strict=True)
        yield _Stage(
            name=f"Stage {stage + 1}",
            blocks=tuple(
                _Block(kernel_size=kernel, expand_ratio=ratio)
                for kernel, ratio in list(pairs)[:depth]
            ),
            elastic=stage,
        )


def _stages_of_blueprint(plan: Blueprint, resolution: int, arch: Arch | None) -> Iterator[_Stage]:
    """Yield stem, stages and head with their sizes and costs."""
    sized = list(sized_layers(plan, resolution))
    num_fixed = len(plan.stage_sizes) - (len(arch.depth) if arch is not None else 0)
    parts: list[tuple[str, int]] = [("Stem", len(plan.stem))]
    parts += [(f"Stage {i + 1 - num_fixed}", size) for i, size in enumerate(plan.stage_sizes)]
    parts.append(("Head", len(plan.head)))
    start = 0
    for position, (name, size) in enumerate(parts):
        layers = sized[start : start + size]
        start += size
        if not layers:
            continue
        stage = position - 1 - num_fixed
        is_elastic = 0 < position < len(parts) - 1 and stage >= 0
        blocks = tuple(_block(layer) for layer, _, _ in layers if _is_block(layer))
        last, side, channels = layers[-1]
        yield _Stage(
            name="First" if name == "Stage 0" else name,
            blocks=blocks,
            content="" if blocks else ", ".join(_layer_words(layer) for layer, _, _ in layers),
            title=_title([layer for layer, _, _ in layers]),
            side=None if name == "Head" else output_size(last, side),
            channels=None if name == "Head" else output_channels(last, channels),
            macs=sum(layer_macs(layer, layer_side) for layer, layer_side, _ in layers),
            elastic=stage if is_elastic else None,
        )


def _stages_of_graph(graph: Graph, arch: Arch | None) -> Iterator[_Stage]:
    """Yield what comes before the blocks, the stages, and what comes after them."""
    shapes = weight_shapes(graph)
    macs = [node_macs(node, graph.nodes, shapes).at(()) for node in graph.nodes]
    numbers_of = dict.fromkeys(block.stage for block in graph.blocks)
    start = 1
    for position, stage in enumerate(numbers_of):
        blocks = [block for block in graph.blocks if block.stage == stage]
        first, last = min(b.first for b in blocks), max(b.last for b in blocks)
        if position == 0 and first > start:
            yield _rest("Stem", graph, macs, start, first)
        shape = graph.nodes[last].sizes
        yield _Stage(
            name=f"Stage {stage + 1}",
            blocks=tuple(
                _Block(kernel_size=b.kernel_size, expand_ratio=b.expand_ratio) for b in blocks
            ),
            title="; ".join(b.name for b in blocks),
            side=shape[2] if len(shape) == 4 else None,
            channels=shape[1] if len(shape) == 4 else shape[-1],
            macs=sum(macs[max(start, first) : last + 1]),
            elastic=stage if arch is not None and stage < len(arch.depth) else None,
        )
        start = max(start, last + 1)
    if start < len(graph.nodes):
        yield _rest("Head" if graph.blocks else "Network", graph, macs, start, len(graph.nodes))


def _rest(name: str, graph: Graph, macs: Sequence[int], start: int, end: int) -> _Stage:
    """Return the row of nodes that are in no block: what they are made of, in words."""
    counts = Counter(graph.nodes[i].op.partition(".")[0] for i in range(start, end) if macs[i])
    words = ", ".join(f"{n} {op}" if n > 1 else op for op, n in counts.items())
    shape = graph.nodes[end - 1].sizes
    is_map = len(shape) == 4 and name != "Head"
    return _Stage(
        name=name,
        content=words or "no weights",
        side=shape[2] if is_map else None,
        channels=shape[1] if is_map else None,
        macs=sum(macs[start:end]),
    )


def _is_block(layer: Layer) -> bool:
    return isinstance(layer, Block)


def _block(layer: Layer) -> _Block:
    assert isinstance(layer, Block)
    ratio = 1.0 if isinstance(layer, MBConv) and not layer.has_expansion else layer.expand_ratio
    return _Block(kernel_size=layer.kernel_size, expand_ratio=ratio)


def _title(layers: Sequence[Layer]) -> str | None:
    """Return what the bars of a stage do not show."""
    blocks = [layer for layer in layers if isinstance(layer, Block)]
    if not blocks:
        return None
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
    return "identity"


# -- rows -----------------------------------------------------------------------------------------


def _row(stage: _Stage, frame: Frame, *, total_macs: int) -> Markup:
    if stage.blocks:
        bars = [_bar(block, frame) for block in stage.blocks]
        bars += [element("i")] * max(0, _most(stage, frame) - len(bars))
        middle = element("div", {"class": "blocks", "title": stage.title}, *bars)
    else:
        middle = element("div", {"class": "words"}, stage.content)
    return element(
        "div",
        {"class": "stage"},
        element("span", None, stage.name),
        middle,
        *_facts(stage, total_macs),
    )


def _bar(block: _Block, frame: Frame) -> Markup:
    kernel = block.kernel_size
    share = min(1.0, block.expand_ratio / frame.max_ratio)
    style = f"k{kernel if kernel in _KERNEL_COLOURS else 7}"
    return element(
        "b",
        {"class": style, "style": f"--w:{share:.3g}"},
        f"{kernel}\u00d7{kernel}" if kernel else "",
        element("i", None, f"{block.expand_ratio:g}"),
    )


def _facts(stage: _Stage, total_macs: int) -> Iterator[Markup]:
    """Return the right end of a row: size, channels, share of the MACs."""
    side = None if stage.side is None else f"{stage.side}\u00d7{stage.side}"
    channels = None if stage.channels is None else f"{stage.channels}{numbers.SPACE}ch"
    share = ""
    if stage.macs is not None and total_macs:
        part = stage.macs / total_macs
        share = f"<1{numbers.SPACE}%" if 0 < part < 0.01 else numbers.percent(part, 0)
    return (element("span", None, cell) for cell in (side, channels, share))


def _input_row(side: int | None) -> Markup:
    size = "" if side is None else f"{side}\u00d7{side} pixels"
    return element(
        "div",
        {"class": "stage input"},
        element("span", None, "Input"),
        element("div", {"class": "words"}, size),
        *(element("span", None, name) for name in ("output", None, "MACs")),
    )


def _key(stages: Sequence[_Stage], frame: Frame) -> Markup:
    kernels = sorted({block.kernel_size for stage in stages for block in stage.blocks} - {0})
    entries = [
        join(
            (
                element("b", {"class": f"k{k if k in _KERNEL_COLOURS else 7}"}),
                f"kernel {k}\u00d7{k}",
            )
        )
        for k in kernels
    ]
    entries.append(
        join(
            (
                element("i", {"class": "ruler"}),
                f"bar width: expand ratio, up to {frame.max_ratio:g}",
            )
        )
    )
    if any(s.elastic is not None and len(s.blocks) < _most(s, frame) for s in stages):
        entries.append(join((element("i", {"class": "off"}), "block switched off")))
    return element("ul", {"class": "net-key"}, *(element("li", None, e) for e in entries))


def _most(stage: _Stage, frame: Frame) -> int:
    if stage.elastic is None or stage.elastic >= len(frame.depths):
        return 0
    return frame.depths[stage.elastic]
