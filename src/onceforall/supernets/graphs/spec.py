"""GraphSpec: a traced network made elastic, as data; the third kind of spec beside stage tables.

Sizes in its nodes are symbolic (`graph.Width`): how many channels each layer has follows from how
many units each channel group keeps, and that from the arch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.genes import StageChoices
from onceforall.graph import (
    Batch,
    Computed,
    Graph,
    GraphBlock,
    Node,
    NormInfo,
    Ref,
    Weight,
    WeightInfo,
    Width,
)
from onceforall.space import SearchSpace
from onceforall.supernets.graphs.parts import (
    ChannelGroup,
    GraphStageBlock,
    Segment,
    WeightCut,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """A traced network made elastic.

    Attributes:
        nodes: Operations with symbolic sizes, for each input side.
        resolutions: Input sides in pixels, ascending.
        any_resolution: Whether the operations are the same for all sides.
        computed: Operations on weights alone.
        weights: Tensors that operations on images read.
        sources: Tensors that only ``computed`` reads.
        norms: Batch norms, with the patterns of their channels.
        groups: Elastic channel groups.
        stages: Blocks of each stage.
        width_choices: Ratios of each width site, ascending.
        site_names: Name of each width site.
        min_depths: Fewest blocks of each stage.
        output: Node that gives the logits.
        num_classes: Logits.
        rigid: What is not elastic and why, as pairs of a node's name and a reason.
        name: Where the network is from, e.g. ``torchvision:resnet18``.
    """

    nodes: tuple[tuple[Node, ...], ...]
    resolutions: tuple[int, ...]
    any_resolution: bool
    computed: tuple[Node, ...]
    weights: tuple[WeightCut, ...]
    sources: tuple[WeightInfo, ...]
    norms: tuple[tuple[NormInfo, tuple[Segment, ...]], ...]
    groups: tuple[ChannelGroup, ...]
    stages: tuple[tuple[GraphStageBlock, ...], ...]
    width_choices: tuple[tuple[float, ...], ...]
    site_names: tuple[str, ...]
    min_depths: tuple[int, ...]
    output: int
    num_classes: int
    rigid: tuple[tuple[str, str], ...] = ()
    name: str = ""

    def __hash__(self) -> int:
        """Return a hash of what names the network; equality compares all of it."""
        return hash((self.name, self.resolutions, len(self.nodes[0]), self.num_classes))

    @property
    def space(self) -> SearchSpace:
        """Return the search space."""
        return _space(self)

    def kept(self, arch: Arch) -> tuple[int, ...]:
        """Return the units that each group keeps; those of blocks that do not run are whole."""
        kept = []
        for group in self.groups:
            if group.axis == "width_mult":
                ratio = arch.width_mult[group.place[0]]
            else:
                stage, block = group.place
                on = block < arch.depth[stage]
                ratio = arch.expand_ratio[stage][block] if on else 1.0
            kept.append(group.kept(ratio))
        return tuple(kept)

    def kernel_sizes(self, arch: Arch) -> dict[int, int]:
        """Return the kernel side of each node whose kernel is elastic and that runs."""
        return {
            index: arch.kernel_size[s][b]
            for s, stage in enumerate(self.stages)
            for b, block in enumerate(stage[: arch.depth[s]])
            for index in block.kernels
        }

    def blueprint(self, arch: Arch) -> Graph:
        """Return the static network of ``arch``.

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        return _blueprint(self, arch)


@lru_cache(maxsize=64)
def _space(spec: GraphSpec) -> SearchSpace:
    stages = []
    for blocks, fewest in zip(spec.stages, spec.min_depths, strict=True):
        stages.append(
            StageChoices(
                num_blocks=len(blocks),
                depths=tuple(range(fewest, len(blocks) + 1)),
                kernel_sizes=tuple(sorted({k for block in blocks for k in block.kernel_sizes})),
                expand_ratios=tuple(sorted({e for block in blocks for e in block.expand_ratios})),
                block_kernel_sizes=tuple(block.kernel_sizes for block in blocks),
                block_expand_ratios=tuple(block.expand_ratios for block in blocks),
            )
        )
    return SearchSpace(
        stages=tuple(stages), resolutions=spec.resolutions, stem_width_mults=spec.width_choices
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """What runs for one arch: node numbers are those of the spec.

    Attributes:
        arch: The arch.
        kept: Units that each group keeps.
        steps: Pairs of a node's number and the node with its sizes, in order.
        output: Number of the node that gives the logits.
        kernels: Kernel side of each node with an elastic kernel.
    """

    arch: Arch
    kept: tuple[int, ...]
    steps: tuple[tuple[int, Node], ...]
    output: int
    kernels: Mapping[int, int]


def subnet_of(spec: GraphSpec, arch: Arch) -> Subnet:
    """Return what runs for an arch.

    Raises:
        ArchError: If ``arch`` is not in the space.
    """
    space = spec.space
    if spec.any_resolution and arch.resolution not in spec.resolutions:
        # Shapes are of no use then, but the operations are the same at every side.
        space.check(replace(arch, resolution=spec.resolutions[-1]))
        nodes = spec.nodes[-1]
    else:
        space.check(arch)
        nodes = spec.nodes[spec.resolutions.index(arch.resolution)]
    kept, kernels = spec.kept(arch), spec.kernel_sizes(arch)
    skips = dict(_skips(spec, arch))

    def stands_for(index: int) -> int:
        while index in skips:
            index = skips[index]
        return index

    output = stands_for(spec.output)
    needed, left = {0}, [output]
    while left:
        index = left.pop()
        if index not in needed:
            needed.add(index)
            left += [stands_for(before) for before in nodes[index].inputs]

    def concrete(value: Any) -> Any:
        if isinstance(value, Width):
            return value.at(kept)
        if isinstance(value, Batch):
            return Batch(concrete(value.times))
        if isinstance(value, Ref):
            return Ref(stands_for(value.index))
        return tuple(concrete(item) for item in value) if isinstance(value, tuple) else value

    steps = []
    for index in sorted(needed):
        node = nodes[index]
        args, kwargs = concrete(node.args), concrete(node.kwargs)
        if index in kernels:
            args = _with_kernel(node, args, kernels[index])
        node = Node(
            name=node.name, op=node.op, args=args, kwargs=kwargs,
            shape=concrete(node.shape), module=node.module,
        )  # fmt: skip
        steps.append((index, node))
    return Subnet(arch=arch, kept=kept, steps=tuple(steps), output=output, kernels=kernels)


def _skips(spec: GraphSpec, arch: Arch) -> Iterator[tuple[int, int]]:
    for depth, stage in zip(arch.depth, spec.stages, strict=True):
        for block in stage[depth:]:
            if not block.skips:
                raise ArchError(f"block {block.name} cannot be skipped")
            yield from block.skips


def _with_kernel(node: Node, args: tuple[Any, ...], side: int) -> tuple[Any, ...]:
    """Return a depthwise convolution's arguments with the padding of another kernel."""
    own = 2 * node.args[4][0] + 1
    side = min(side, own)
    return (*args[:4], (side // 2, side // 2), *args[5:])


@lru_cache(maxsize=64)
def _blueprint(spec: GraphSpec, arch: Arch) -> Graph:
    subnet = subnet_of(spec, arch)
    if arch.resolution not in spec.resolutions:
        raise ArchError(
            f"resolution {arch.resolution} is not one of {spec.resolutions}, the sides that the "
            "network was traced at"
        )
    numbers = {index: i for i, (index, _) in enumerate(subnet.steps)}
    nodes = tuple(_renumbered(node, numbers) for _, node in subnet.steps)
    read = {part for node in nodes for part in node.parts() if isinstance(part, Weight)}
    weights = []
    for cut in spec.weights:
        source = cut.source
        if isinstance(source, Computed):
            source = Weight(constant_name(source.index))
        if source in read:
            weights.append(
                WeightInfo(
                    name=source.name, shape=cut_shape(cut, subnet), kind=cut.kind, dtype=cut.dtype
                )
            )
    used = {node.module for node in nodes if node.op == "batch_norm"}
    return Graph(
        nodes=nodes,
        weights=tuple(weights),
        norms=tuple(
            replace(norm, channels=pattern_width(pattern).at(subnet.kept) or norm.channels)
            for norm, pattern in spec.norms
            if norm.name in used
        ),
        output=numbers[subnet.output],
        num_classes=spec.num_classes,
        resolution=arch.resolution,
        any_resolution=spec.any_resolution,
        blocks=tuple(_blocks(spec, subnet, numbers)),
        skipped=tuple(
            block.name
            for depth, stage in zip(arch.depth, spec.stages, strict=True)
            for block in stage[depth:]
        ),
    )


def constant_name(index: int) -> str:
    """Return the name of a computed constant in a plain network."""
    return f"constants.{index}"


def _renumbered(node: Node, numbers: Mapping[int, int]) -> Node:
    def value(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(value(item) for item in part)
        if isinstance(part, Ref):
            return Ref(numbers[part.index])
        return Weight(constant_name(part.index)) if isinstance(part, Computed) else part

    return replace(node, args=value(node.args), kwargs=value(node.kwargs))


def pattern_width(pattern: Sequence[Segment]) -> Width:
    """Return the length of a dimension; patterns have all units of a group, equally often."""
    fixed = sum(units * repeats for group, _, units, repeats in pattern if group < 0)
    terms: dict[int, int] = {}
    for group, first, _, repeats in pattern:
        if group >= 0 and first == 0:
            terms[group] = terms.get(group, 0) + repeats
    return Width(fixed, tuple(sorted(terms.items())))


def cut_shape(cut: WeightCut, subnet: Subnet) -> tuple[int, ...]:
    """Return the shape of a tensor of a subnet."""
    shape = list(cut.shape)
    for dim, pattern in cut.cuts:
        shape[dim] = pattern_width(pattern).at(subnet.kept)
    side = kernel_side(cut, subnet)
    return (*shape[:-2], side, side) if side else tuple(shape)


def kernel_side(cut: WeightCut, subnet: Subnet) -> int:
    """Return the kernel side of a tensor of a subnet; 0 if its kernel is not elastic."""
    if not cut.kernel:
        return 0
    sides = {
        min(side, cut.kernel)
        for index, node in subnet.steps
        if (side := subnet.kernels.get(index)) and node.args[1] == cut.source
    }
    return max(sides, default=cut.kernel)


def _blocks(spec: GraphSpec, subnet: Subnet, numbers: Mapping[int, int]) -> Iterator[GraphBlock]:
    for s, stage in enumerate(spec.stages):
        for b, block in enumerate(stage[: subnet.arch.depth[s]]):
            places = [numbers[i] for i in block.nodes if i in numbers]
            if places:
                yield GraphBlock(
                    name=block.name,
                    stage=s,
                    first=min(places),
                    last=max(places),
                    kernel_size=subnet.arch.kernel_size[s][b] if block.kernels else 0,
                    expand_ratio=subnet.arch.expand_ratio[s][b],
                )


GRAPH_SPEC_TYPES = (GraphSpec, ChannelGroup, GraphStageBlock, WeightCut)
