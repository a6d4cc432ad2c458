"""What a traced network that was made elastic is made of: channel groups, blocks, cut tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onceforall.blueprint import make_divisible
from onceforall.graph import Computed, Weight

Segment = tuple[int, int, int, int]
# Dimensions along which a tensor is cut, each with its pattern: see `Groups.segments`.
Cuts = tuple[tuple[int, tuple[Segment, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels that are kept or dropped unit by unit.

    Attributes:
        name: Dotted path of the layers that make them, or what these have in common.
        units: Units of the largest subnet.
        channels_per_unit: Channels that a unit counts: those of a head, of a convolution's group.
        divisor: Units are kept in multiples of it.
        axis: Which choice of an arch says how many are kept.
        place: Width site, or stage and block, of that choice.
        coupled: Whether several layers make them.
    """

    name: str
    units: int
    channels_per_unit: int
    divisor: int
    axis: Literal["width_mult", "expand_ratio"]
    place: tuple[int, ...]
    coupled: bool

    def kept(self, ratio: float) -> int:
        """Return the units that a ratio in (0, 1] keeps."""
        if ratio >= 1:
            return self.units
        return min(self.units, make_divisible(self.units * ratio, self.divisor))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStageBlock:
    """A block of a stage.

    Attributes:
        name: Dotted path of its module.
        skips: Pairs of an addition and the shortcut that takes its place; empty if it always runs.
        nodes: Its nodes.
        kernels: Its depthwise convolutions with elastic kernels.
        kernel_sizes: Kernel sides on offer, ascending; each convolution takes at most its own.
        expand_ratios: Ratios on offer for its inner widths, ascending.
    """

    name: str
    skips: tuple[tuple[int, int], ...]
    nodes: tuple[int, ...]
    kernels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCut:
    """How a tensor is cut.

    Attributes:
        source: The tensor, computed constant or norm (by path).
        shape: Its whole shape.
        kind: What it is in the state dict.
        dtype: Number format.
        cuts: Dimensions and patterns.
        kernel: Largest side if it is an elastic depthwise kernel, else 0.
    """

    source: Weight | Computed
    shape: tuple[int, ...]
    kind: Literal["parameter", "buffer"]
    dtype: str
    cuts: Cuts = ()
    kernel: int = 0
