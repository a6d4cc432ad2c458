"""Putting an elastic network together: what follows which choice, and every size as a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Computed, Node, Ref, Weight, WeightInfo, Width
from onceforall.supernets.graphs.blocks import Block, block_path, common_path
from onceforall.supernets.graphs.groups import Groups, constant_cuts
from onceforall.supernets.graphs.operands import Channels
from onceforall.supernets.graphs.operators import convolution_groups
from onceforall.supernets.graphs.parts import ChannelGroup, GraphStageBlock, WeightCut
from onceforall.supernets.graphs.shapes import padded_dims
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.graphs.trace import Program

# More width sites than these are tied to fewer, module by module.
_MOST_SITES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticChoices:
    """What is elastic in a network, and how far.

    Attributes:
        ratios: Shares of its channels that a group may keep, ascending, in (0, 1]; 1 is there.
        divisor: Channels are kept in multiples of it, where a group has more than twice as many.
        whole_below: Channels that several layers make, i.e. that blocks share, are all kept where
            there are fewer than this.
        smallest_kernel: Smallest side of a depthwise kernel; an odd number.
        depth: Whether blocks may be skipped.
        resolutions: Input sides in pixels; empty for that of the example alone.
        strict: Refuse a network with an operator that has no rule, rather than leave it rigid.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    divisor: int = 8
    whole_below: int = 0
    smallest_kernel: int = 3
    depth: bool = True
    resolutions: tuple[int, ...] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        ratios = list(self.ratios)
        if not ratios or ratios != sorted(set(ratios)) or ratios[0] <= 0 or ratios[-1] != 1:
            raise BlueprintError(f"ratios {self.ratios} are not ascending in (0, 1] up to 1")
        if self.smallest_kernel < 1 or self.smallest_kernel % 2 == 0:
            raise BlueprintError(f"smallest_kernel {self.smallest_kernel} is not odd and positive")
        if self.divisor < 1:
            raise BlueprintError(f"divisor {self.divisor} is below 1")
        if self.whole_below < 0:
            raise BlueprintError(f"whole_below {self.whole_below} is below 0")


def kernel_sites(
    program: Program, shapes: Mapping[Weight | Computed, tuple[int, ...]], choices: ElasticChoices
) -> dict[int, int]:
    """Return the side of each depthwise kernel that can be smaller, by node."""
    sites: dict[int, int] = {}
    readers: dict[Any, list[int]] = {}
    for index, node in enumerate(program.nodes):
        for part in node.parts():
            if isinstance(part, Weight | Computed):
                readers.setdefault(part, []).append(index)
    for index, node in enumerate(program.nodes):
        if node.op != "conv2d.default" or not isinstance(node.args[1], Weight):
            continue
        _, weight, _, _, padding, dilation, groups = node.args
        side = shapes[weight][-1]
        same = padding == (side // 2,) * 2 and dilation == (1, 1)
        square = shapes[weight][-2] == side and shapes[weight][1] == 1 and groups > 1
        alone = len(readers[weight]) == 1
        if same and square and alone and side % 2 and side > choices.smallest_kernel and side >= 5:
            sites[index] = side
    return sites


def assembled(
    programs: Sequence[Program],
    found: Channels,
    groups: Groups,
    stages: list[list[Block]],
    kernels: Mapping[int, int],
    shapes: Mapping[Weight | Computed, tuple[int, ...]],
    choices: ElasticChoices,
) -> GraphSpec:
    """Return a traced network made elastic, without a name.

    Args:
        programs: Its trace at every input side.
        found: Ids of its tensors.
        groups: Its channel groups.
        stages: Its blocks.
        kernels: Side of each elastic kernel, by node.
        shapes: Shape of every constant.
        choices: What is elastic.
    """
    program = programs[-1]
    if not choices.depth:
        stages = [[replace(block, skips=()) for block in stage] for stage in stages]
    names, channel_list = _sites(program, groups, stages, choices)
    sites = [
        _ratios([g for g in channel_list if g.axis == "width_mult" and g.place == (i,)], choices)
        for i in range(len(names))
    ]
    graph_stages = tuple(
        tuple(
            _stage_block(
                block,
                [g for g in channel_list if g.axis == "expand_ratio" and g.place == (s, b)],
                kernels,
                choices,
            )
            for b, block in enumerate(stage)
        )
        for s, stage in enumerate(stages)
    )
    cuts = constant_cuts(found, groups)
    return GraphSpec(
        nodes=tuple(_symbolic(each, groups, shapes) for each in programs),
        resolutions=(program.side,),
        any_resolution=all(_same_arguments(each, program) for each in programs[:-1])
        and not _has_spatial_literal(program),
        computed=program.computed,
        weights=tuple(_weight_cuts(program, cuts, shapes, kernels)),
        sources=tuple(
            _info(name, program.tensors[name])
            for name in dict.fromkeys(
                part.name
                for node in program.computed
                for part in node.parts()
                if isinstance(part, Weight)
            )
        ),
        norms=tuple(
            (norm, dict(cuts.get(Weight(f"{norm.name}."), ())).get(0, ()))
            for norm in program.norms.values()
        ),
        groups=tuple(channel_list),
        stages=graph_stages,
        width_choices=tuple(sites),
        site_names=tuple(names),
        min_depths=tuple(max(1, sum(not block.skips for block in stage)) for stage in graph_stages),
        output=program.output,
        num_classes=int(program.nodes[program.output].shape[1]),
        rigid=tuple(found.problems.items()),
    )


def _sites(
    program: Program, groups: Groups, stages: list[list[Block]], choices: ElasticChoices
) -> tuple[list[str], list[ChannelGroup]]:
    """Say which choice of an arch each group follows."""
    inner: dict[int, tuple[int, int]] = {}
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage):
            # Channels of the sum are there where the block is skipped, too.
            totals = {total for total, _ in block.skips}
            for g, nodes in enumerate(groups.nodes):
                if g in inner or not nodes or nodes & totals:
                    continue
                if nodes | groups.makers[g] <= block.nodes:
                    inner[g] = (s, b)
    keys = _site_keys(program, {g: m for g, m in enumerate(groups.makers) if g not in inner})
    keys = _fewer(keys)
    names = list(dict.fromkeys(keys.values()))
    result = []
    for g, size in enumerate(groups.sizes):
        modules = [program.nodes[i].module for i in sorted(groups.makers[g])]
        per_unit = groups.channels[g]
        divisor = max(1, choices.divisor // per_unit)
        divisor = divisor if size > 2 * divisor else 1
        is_coupled = len(groups.makers[g]) > 1
        if is_coupled and size * per_unit < choices.whole_below:
            divisor = size
        result.append(
            ChannelGroup(
                name=common_path(modules) or modules[0],
                units=size,
                channels_per_unit=per_unit,
                divisor=divisor,
                axis="expand_ratio" if g in inner else "width_mult",
                place=inner[g] if g in inner else (names.index(keys[g]),),
                coupled=is_coupled,
            )
        )
    return names, result


def _site_keys(program: Program, makers: Mapping[int, frozenset[int]]) -> dict[int, str]:
    """Return a name for each group's width site; groups made in one block alone share theirs."""
    modules = {g: [program.nodes[i].module for i in sorted(own)] for g, own in makers.items()}
    keys: dict[int, str] = {}
    for g, own in modules.items():
        key = block_path(own)
        if len(own) > 1 and (not key or key in keys.values()):
            key = block_path(own[:1])
        keys[g] = key or f"group{g}"
    return keys


def _fewer(keys: dict[int, str]) -> dict[int, str]:
    """Tie sites of one module until there are not too many: the deepest paths first."""
    while len(set(keys.values())) > _MOST_SITES:
        deepest = max(key.count(".") for key in keys.values())
        if deepest == 0:
            return keys
        keys = {
            g: key.rpartition(".")[0] if key.count(".") == deepest else key
            for g, key in keys.items()
        }
    return keys


def _ratios(groups: Sequence[ChannelGroup], choices: ElasticChoices) -> tuple[float, ...]:
    """Return the ratios that make a difference to some group, the largest of those that do not."""
    by_sizes = {tuple(group.kept(ratio) for group in groups): ratio for ratio in choices.ratios}
    return tuple(sorted(by_sizes.values()))


def _stage_block(
    block: Block, inner: Sequence[ChannelGroup], kernels: Mapping[int, int], choices: ElasticChoices
) -> GraphStageBlock:
    largest = max((kernels[i] for i in block.kernels), default=0)
    smallest = choices.smallest_kernel
    sides = tuple(range(smallest, largest + 1, 2)) if largest else (0,)
    return GraphStageBlock(
        name=block.name,
        skips=block.skips,
        nodes=tuple(sorted(block.nodes)),
        kernels=block.kernels,
        kernel_sizes=sides,
        expand_ratios=_ratios(inner, choices) if inner else (1.0,),
    )


def _weight_cuts(
    program: Program,
    cuts: Mapping[Weight | Computed, Any],
    shapes: Mapping[Weight | Computed, tuple[int, ...]],
    kernels: Mapping[int, int],
) -> list[WeightCut]:
    sides = {program.nodes[i].args[1]: side for i, side in kernels.items()}
    read: dict[Weight | Computed, None] = {}
    for node in program.nodes:
        read.update({p: None for p in node.parts() if isinstance(p, Weight | Computed)})
    result = []
    for source in read:
        is_parameter, dtype = True, "float32"
        if isinstance(source, Weight):
            tensor = program.tensors[source.name]
            is_parameter = isinstance(tensor, nn.Parameter)
            dtype = str(tensor.dtype).removeprefix("torch.")
        result.append(
            WeightCut(
                source=source,
                shape=shapes[source],
                kind="parameter" if is_parameter else "buffer",
                dtype=dtype,
                cuts=cuts.get(source, ()),
                kernel=sides.get(source, 0),
            )
        )
    return result


def _info(name: str, tensor: Tensor) -> WeightInfo:
    return WeightInfo(
        name=name,
        shape=tuple(tensor.shape),
        kind="parameter" if isinstance(tensor, nn.Parameter) else "buffer",
        dtype=str(tensor.dtype).removeprefix("torch."),
    )


def _symbolic(
    program: Program, groups: Groups, shapes: Mapping[Weight | Computed, tuple[int, ...]]
) -> tuple[Node, ...]:
    """Return the nodes of a program with sizes that follow from the groups."""
    nodes: list[Node] = []
    for index, node in enumerate(program.nodes):
        shape = list(node.shape)
        if index in groups.widths:
            dim, width = groups.widths[index]
            old = shape[dim]
            shape[dim] = replace(old, times=width) if hasattr(old, "times") else width
        nodes.append(replace(node, shape=tuple(shape)))
    for index, node in enumerate(nodes):
        args = _symbolic_args(index, nodes, groups, program)
        nodes[index] = replace(node, args=args)
    return tuple(nodes)


def _symbolic_args(
    index: int, nodes: Sequence[Node], groups: Groups, program: Program
) -> tuple[Any, ...]:
    node, args = nodes[index], nodes[index].args
    source = args[0].index if args and isinstance(args[0], Ref) else None
    width = None if source is None else groups.widths.get(source)
    if node.op in ("reshape", "expand"):
        return (args[0], node.shape)
    if node.op == "pad.default" and index in groups.widths:
        return (args[0], _symbolic_pads(index, node, groups), *args[2:])
    if width is None or source is None:
        return args
    dim, size = width
    if node.op == "slice" and args[1] == dim:
        ids = groups.vectors[source]
        ends = [groups.width(ids[: args[2]]), groups.width(ids[: args[3]])]
        return (*args[:2], *ends, args[4])
    if node.op.startswith("conv") and convolution_groups(node) > 1:
        per_group = int(program.nodes[source].shape[1]) // convolution_groups(node)
        count = Width(size.fixed // per_group, tuple((g, n // per_group) for g, n in size.terms))
        return (*args[:6], count)
    if node.op == "layer_norm.default":
        return (args[0], node.shape[len(node.shape) - len(args[1]) :], *args[2:])
    if node.op == "group_norm.default" and args[1] > 1:
        per_group = int(program.nodes[source].shape[1]) // args[1]
        count = Width(size.fixed // per_group, tuple((g, n // per_group) for g, n in size.terms))
        return (args[0], count, *args[2:])
    return args


def _symbolic_pads(index: int, node: Node, groups: Groups) -> tuple[Any, ...]:
    """Return how much is padded, as far as it is channels, as sizes that follow from the groups."""
    (dim, _), ids, pads = groups.widths[index], groups.vectors[index], list(node.args[1])
    before, after = padded_dims(node, len(node.shape)).get(dim, (0, 0))
    if (before, after) != (0, 0):
        place = 2 * (len(node.shape) - 1 - dim)
        ends = ids[:before], ids[len(ids) - after :]
        pads[place : place + 2] = [groups.width(part) if len(part) else 0 for part in ends]
    return tuple(pads)


def _same_arguments(a: Program, b: Program) -> bool:
    """Return whether two traces differ in nothing but the shapes of results."""
    return all(
        x.args == y.args and x.kwargs == y.kwargs for x, y in zip(a.nodes, b.nodes, strict=True)
    )


def _has_spatial_literal(program: Program) -> bool:
    """Return whether an argument may depend on the image's side, as far as one trace tells."""
    for node in program.nodes:
        if node.op in ("expand", "roll.default", "slice"):
            return True
        if node.op.startswith(("upsample", "constant_pad")):
            return True
        if node.op == "pad.default" and set(padded_dims(node, len(node.shape))) - {1}:
            return True
        if node.op == "reshape" and any(
            isinstance(size, int) and size > 1 for size in node.args[1][2:]
        ):
            return True
        if node.inputs and _swallows(program.nodes[node.inputs[0]], node):
            return True
    return False


def _swallows(before: Node, node: Node) -> bool:
    """Return whether a node turns a map of just its size into one vector a channel, or an image."""
    if len(before.shape) != 4 or max(before.sizes[2:]) == 1:
        return False
    if node.op == "reshape":
        return len(node.shape) == 2
    is_window = node.op.startswith(("conv2d", "avg_pool2d", "max_pool2d"))
    return is_window and len(node.shape) == 4 and max(node.sizes[2:]) == 1
